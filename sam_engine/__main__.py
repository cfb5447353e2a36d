"""All programs under one name: ``sam-engine annotate``, or ``python -m sam_engine annotate``.

``sam-engine verify`` does what ``python -m tools.verify`` does in a checkout. Programs are imported by name
when they are run, so that the list costs nothing; this is the only file of the library that knows them.
"""

import difflib
import importlib.metadata
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from sam_engine.compute.signals import leave, quit_at_once

PIPELINES = {
    "annotate": ("auto_annotate", "turn images into a dataset: every mask of every image, in Parquet"),
    "evaluate": ("evaluate", "score a model on ground truth"),
    "train": ("train", "train or fine-tune a model on annotated images"),
    "loop": ("loop", "annotate, learn from the confident masks, measure again"),
    "launch": ("launch", "run one of these on a cluster: Slurm, Kubernetes, Ray"),
}
"""Name -> module in ``pipelines``, which has ``command_line(arguments)``, and what it does."""

TOOLS = {
    "view": ("view", "look at a dataset in the browser, also while it is being made"),
    "correct": ("annotate", "correct masks in the browser, or draw them on bare photos"),
    "audit": ("audit", "have people judge a sample of a dataset, and say how good its masks are"),
    "export": ("export", "write a dataset in a form that other tools read"),
    "export-onnx": ("export_onnx", "write a model for ONNX Runtime, checked against torch"),
    "import": ("import_annotations", "take what was corrected in other tools back"),
    "verify": ("verify", "hold a dataset against every promise of its format; --repair mends it"),
    "status": (
        "status",
        "say how far a dataset is: images, speed, time left, failures; also while it is made",
    ),
    "filter": ("filter", "keep some masks and images of a dataset, by area, score, label, status, name"),
    "merge": ("merge", "make one dataset of several"),
    "split": ("split", "split a dataset into training, validation and the like"),
    "sample": ("sample", "take a random part of a dataset"),
    "dedupe": ("dedupe", "leave copies of files out of a dataset"),
    "stats": ("stats", "count what the masks of a dataset are like; --html for a page with plots"),
    "apply-corrections": ("apply_corrections", "make a dataset as people left it"),
    "doctor": ("doctor", "say what is here and what is missing: versions, GPU, codecs, weights, disk"),
    "compare": ("compare_runs", "match the masks of two datasets of the same images"),
    "equivalence": ("equivalence", "compare what the engine finds with what segment_anything finds"),
    "bench": ("bench.generator", "time the mask generator"),
    "bench-decoder": ("bench.decoder", "time the mask decoder against slower ones"),
    "bench-gpu": ("bench.gpu_proof", "prove on a GPU what the tests show on a fake one"),
    "bench-growth": ("bench.growth", "time the mask generator against points and pixels"),
    "bench-planning": ("bench.planning", "time the planning of a run of SA-1B's size"),
    "bench-scheduling": ("bench.scheduling", "time what Ray's scheduling costs"),
    "bench-viewer": ("bench.viewer", "time the viewer on a dataset of a million rows"),
    "bench-page": ("bench.viewer_page", "time the viewer's page of an image with a thousand masks"),
    "bench-onnx": ("bench.onnx_prompts", "time exported decoders, whole and split"),
    "bench-browser": ("bench.browser_decoder", "time the decoder in a browser beside native onnxruntime"),
    "bench-soak": ("bench.soak", "watch a process's memory over many images"),
}
"""Name -> module in ``tools``, which has ``main(arguments)``, and what it does."""

HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a program; return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        sys.stderr.write(help_text())
        return 2
    name, *rest = arguments
    if name in {"-h", "--help"}:
        sys.stdout.write(help_text())
        return 0
    if name == "--version":
        sys.stdout.write(f"sam-engine {importlib.metadata.version('sam-engine')}\n")
        return 0
    programs = PIPELINES | TOOLS
    if name not in programs:
        close = difflib.get_close_matches(name, programs, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(programs)}"
        sys.stderr.write(f"error: there is no program {name!r}; {hint}\n")
        return 2
    sys.argv = [f"sam-engine {name}", *rest]
    return run_program(name, rest)


def command_line() -> None:
    """Run the program that the command line names, and end the process: what ``sam-engine`` is."""
    quit_at_once()
    leave(main())


def run_program(name: str, arguments: Sequence[str]) -> int:
    """Run a program of the tables; return its exit code."""
    home = _home()
    if name in PIPELINES:
        module, _ = PIPELINES[name]
        code: int = import_module(f"{home}pipelines.{module}").command_line(arguments)
    else:
        module, _ = TOOLS[name]
        tool = import_module(f"{home}tools.{module}")
        code = import_module(f"{home}tools.command").run(tool.main, arguments)
    return code


def _home() -> str:
    """Return what stands before ``pipelines`` and ``tools`` in the names of modules."""
    if (HERE / "pipelines").is_dir():
        return "sam_engine."
    if (
        str(HERE.parent) not in sys.path[:1]
    ):  # a checkout: the working directory may have rooms of these names
        sys.path.insert(0, str(HERE.parent))
    return ""


def called(module: str) -> str:
    """Return what was typed to run a program: ``sam-engine verify``, or ``python -m tools.verify``."""
    return sys.argv[0] if sys.argv[0].startswith("sam-engine ") else f"python -m {module}"


def help_text() -> str:
    """Return the list of programs."""
    width = max(map(len, PIPELINES | TOOLS))
    lines = ["usage: sam-engine PROGRAM ...   (PROGRAM --help says more; --version)"]
    for kind, programs in (("key=value settings", PIPELINES), ("--flags", TOOLS)):
        lines += ["", f"Programs that take {kind}:"]
        lines += [f"  {name:<{width}}  {what}" for name, (_, what) in programs.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command_line()
