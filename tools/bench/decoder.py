"""Time the mask decoder against slower ones: python -m tools.bench.decoder --model vit_b --threads 1.

They are its slow twin, and with --reference the decoder of segment_anything with the same sizes. Weights and
image are random: the work does not depend on them. The image encoder takes no part. On one CPU thread, CPU
time is measured, which other programs disturb less; else wall-clock time.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sam_engine.__main__ import called
from sam_engine.catalogue import DEFAULT_MODEL
from sam_engine.config import MODEL_NAMES, ModelConfig

from ..command import command_line

if TYPE_CHECKING:
    from torch import Tensor

    from sam_engine.catalogue import Architecture

SLOWER = ("reference", "slow twin")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print milliseconds for each prompt, the best of several runs."""
    parser = argparse.ArgumentParser(
        prog=called("tools.bench.decoder"),
        description="Time the mask decoder, for each prompt, against slower ones.",
    )
    parser.add_argument("--model", choices=MODEL_NAMES, default=DEFAULT_MODEL)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or mps")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default 1)")
    parser.add_argument("--prompts", type=int, default=16, metavar="P", help="points at once (default 16)")
    parser.add_argument("--repeats", type=int, default=5, metavar="R", help="runs of each (default 5)")
    parser.add_argument("--reference", action="store_true", help="time the decoder of segment_anything too")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    times_ms = measure(
        options.model,
        options.device,
        options.threads,
        options.prompts,
        options.repeats,
        with_reference=options.reference,
    )
    slower = [name for name in SLOWER if name in times_ms]
    ratios = {
        f"{name} / fast, {shape}": times_ms[name] / (times_ms["transformer"] + times_ms[upscaling])
        for shape, upscaling in (("square", "upscaling"), ("3:2", "upscaling of a 3:2 image"))
        for name in slower
    }
    if options.json:
        sys.stdout.write(json.dumps({**times_ms, **ratios}, indent=2) + "\n")
        return 0
    for name, value in times_ms.items():
        sys.stdout.write(f"{name:28}{value:9.2f} ms\n")
    for name, value in ratios.items():
        sys.stdout.write(f"{name:28}{value:9.2f}\n")
    return 0


def measure(
    model: str,
    device: str,
    num_threads: int,
    num_prompts: int,
    repeats: int,
    *,
    with_reference: bool = False,
) -> dict[str, float]:
    """Return the best times: once for an image, all others for each prompt."""
    import torch

    from sam_engine.build_sam import build_architecture, choose_device
    from sam_engine.catalogue import ARCHITECTURES
    from sam_engine.modeling.segmenter import ImageEmbedding

    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    place = choose_device(ModelConfig(name=model, device=device))
    clock = time.thread_time if place.type == "cpu" and num_threads == 1 else time.perf_counter
    architecture = replace(ARCHITECTURES[model], embed_dim=32, depth=1, num_heads=1)  # no encoder is needed
    sam = build_architecture(architecture).to(place)
    size, channels = architecture.image_size, architecture.prompt_embed_dim

    def noise(num_channels: int, stride: int) -> torch.Tensor:
        return torch.randn(1, num_channels, size // stride, size // stride, device=place)

    has_skips = architecture.family.has_skip_features
    embedding = ImageEmbedding(
        features=noise(channels, 16),
        skip_features=(noise(channels // 8, 4), noise(channels // 4, 8)) if has_skips else None,
        input_size=(2 * size // 3, size),
        original_size=(2 * size // 3, size),
    )
    points = torch.rand(num_prompts, 1, 2, device=place) * size
    labels = torch.ones(num_prompts, 1, device=place)
    every = torch.arange(num_prompts, device=place)

    def slow_twin() -> None:
        sparse, dense = sam.prompt_encoder((points, labels), None, None)
        pe = sam.prompt_encoder.get_dense_pe()
        places = sam.prompt_encoder.places((points, labels), None)
        sam.mask_decoder(embedding.features, pe, sparse, dense, True, embedding.skip_features, places)

    slower: dict[str, Callable[[], object]] = {"slow twin": slow_twin}
    if with_reference:
        slower["reference"] = _reference(architecture, embedding.features, points, labels)
    with torch.no_grad():
        prepared = sam.prepare(embedding)
        assert prepared.prepared is not None
        memory = prepared.prepared.image.new_empty(num_prompts, *prepared.prepared.image.shape)
        decoded = sam.decode_prompts(prepared, point_coords=points, point_labels=labels)
        steps: dict[str, tuple[Callable[[], object], int]] = {
            **{name: (step, num_prompts) for name, step in slower.items()},
            "once for an image": (lambda: sam.prepare(embedding), 1),
            "transformer": (
                lambda: sam.decode_prompts(prepared, point_coords=points, point_labels=labels, images=memory),
                num_prompts,
            ),
            "upscaling": (lambda: sam.upscale_masks(prepared, decoded, every), num_prompts),
            "upscaling of a 3:2 image": (
                lambda: sam.upscale_masks(prepared, decoded, every, skip_padding=True),
                num_prompts,
            ),
        }
        best = dict.fromkeys(steps, float("inf"))
        for repeat in range(repeats + 1):  # in turn, so that all see the same machine; the first warms up
            for name, (step, divisor) in steps.items():
                _synchronise(place.type)
                start = clock()
                step()
                _synchronise(place.type)
                if repeat:
                    best[name] = min(best[name], (clock() - start) * 1e3 / divisor)
    return best


def _reference(
    architecture: "Architecture", features: "Tensor", points: "Tensor", labels: "Tensor"
) -> Callable[[], object]:
    """Return what decodes the prompts with the package's network; it knows no skip features."""
    from ..reference import build_reference, import_segment_anything

    model = build_reference(import_segment_anything(features.device), architecture).to(features.device)

    def decode() -> None:
        sparse, dense = model.prompt_encoder((points, labels), None, None)
        pe = model.prompt_encoder.get_dense_pe()
        model.mask_decoder(features, pe, sparse, dense, multimask_output=True)

    return decode


def _synchronise(device_type: str) -> None:
    """Wait for work that was queued on an accelerator."""
    import torch

    if device_type == "cuda":
        torch.cuda.synchronize()
    elif device_type == "mps":
        torch.mps.synchronize()


if __name__ == "__main__":
    command_line(main)
