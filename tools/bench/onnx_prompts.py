"""Time exported decoders: python -m tools.bench.onnx_prompts --model vit_b.

Milliseconds of onnxruntime for one click, with the whole decoder and with the split one, in turn in one
process. Weights make no difference to it: without released ones at hand, ``--checkpoint random`` will do.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam_engine.__main__ import called
from sam_engine.catalogue import DEFAULT_MODEL, MODELS
from sam_engine.config import ModelConfig
from sam_engine.errors import ConfigError

from ..command import command_line

if TYPE_CHECKING:
    from sam_engine.modeling.sam import Sam

NAMES = ("whole, each prompt", "split, once an image", "split, each prompt")


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, time and print."""
    parser = argparse.ArgumentParser(
        prog=called("tools.bench.onnx_prompts"), description="Time exported decoders on one click."
    )
    parser.add_argument("--model", choices=MODELS, default=DEFAULT_MODEL, help=f"default: {DEFAULT_MODEL}")
    parser.add_argument("--checkpoint", help="known name, path or URL; default: the model's own")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default 1)")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="of each graph (default 20)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    if options.runs < 1 or options.threads < 1:
        raise ConfigError(f"--runs is {options.runs} and --threads {options.threads}; wanted is 1 or more")
    from sam_engine.build_sam import load_model

    sam = load_model(ModelConfig(name=options.model, checkpoint=options.checkpoint, device="cpu"))
    times = measure(sam, options.runs, options.threads)
    if options.json:
        text = json.dumps(times, indent=2)
    else:
        text = "\n".join(
            f"{name:<22} median {statistics.median(ms):.1f} ms, least {min(ms):.1f}"
            for name, ms in times.items()
        )
    sys.stdout.write(text + "\n")
    return 0


def measure(sam: "Sam", num_runs: int, num_threads: int) -> dict[str, list[float]]:
    """Return the milliseconds of each run of each graph, the first of which is left out."""
    with tempfile.TemporaryDirectory() as folder:
        graphs = write_graphs(sam, Path(folder))
        sessions = {name: open_session(path, num_threads) for name, path in graphs.items()}
    inputs = {name: inputs_of(session, sam.image_size / 2) for name, session in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(1 + num_runs):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, inputs[name])
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: ms[1:] for name, ms in times.items()}


def write_graphs(sam: "Sam", folder: Path) -> dict[str, Path]:
    """Write a model's decoders into a folder; return the file of each of `NAMES`."""
    from sam_engine.modeling.onnx_file import export_decoder, export_split, split_paths

    output = folder / "decoder.onnx"
    export_decoder(sam, output)
    export_split(sam, output)
    return dict(zip(NAMES, (output, *split_paths(output)), strict=True))


def open_session(path: Path, num_threads: int) -> Any:
    """Return a session of onnxruntime on the CPU."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = num_threads
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def inputs_of(session: Any, middle: float) -> dict[str, Any]:
    """Return a click in the middle of an image of noise, without a mask."""
    import numpy as np

    random = np.random.default_rng(0)
    values = {
        "point_coords": np.float32([[[middle, middle], [0, 0]]]),
        "point_labels": np.float32([[1, -1]]),
        "has_mask_input": np.zeros(1, np.float32),
    }
    return {
        given.name: values[given.name]
        if given.name in values
        else random.standard_normal(given.shape, np.float32)
        for given in session.get_inputs()
    }


if __name__ == "__main__":
    command_line(main)
