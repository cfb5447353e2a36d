"""Time the mask generator: python -m tools.bench --model tiny --reference.

One command, one table: models x image sizes x precisions, from files to Parquet and in memory, each with its
stages, memory and cold start. With --reference, the same images, weights and settings go through the
segment_anything package in the same process. Every number that a process's past could change is measured in a
process of its own.

tiny has its own weights; vit_* get random ones, calibrated so that as many masks pass the filters as with a
trained model, unless --checkpoint is given. docs/performance.md says how to read the table.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sam_engine.__main__ import called
from sam_engine.catalogue import DEFAULT_MODEL, MODELS
from sam_engine.config import MODEL_NAMES, PRECISIONS, ModelConfig
from sam_engine.errors import ConfigError, InputError
from sam_engine.inputs.folder import sample_photos
from sam_engine.inputs.source import IMAGE_EXTENSIONS

from ..command import add_amg_flags
from .job import Job, comparison_from
from .table import OURS, REFERENCE, Case, FilesPass, FirstPass, Result, describe

PHOTOS = ("coffee.png", "rocket.jpg", "chelsea.png", "motorcycle_left.png", "astronaut.png")
"""Of scikit-image, in the order that --limit takes them: first those that are 3:2, as most photos are."""

AMG_SETTINGS = ("points_per_side", "points_per_batch", "pred_iou_thresh", "stability_score_thresh")
MEASURES = ("memory", "files", "first")
FILES_NEED = ("pyarrow", "cv2", "simplejpeg")


Launch = Callable[[Job], dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _parse(arguments)
    paths = find_images(options.images)[: options.limit]
    cases = [
        Case(model=model, long_side=long_side, precision=precision)
        for model in options.model
        for long_side in options.long_side
        for precision in options.precision
    ]
    for case in cases:
        ModelConfig(name=case.model, device=options.device, precision=case.precision)
    machine = _describe_machine(options, paths)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            job = _job(case, options, paths, Path(folder))
            results.append(measure(case, job, measures=options.measures))
    machine["load at the end"] = _load_average()
    if options.json:
        document = {"machine": machine, "runs": [asdict(result) for result in results]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stdout.write(describe(machine, results) + "\n")
    return 0


def measure(
    case: Case, job: Job, *, measures: Sequence[str] = MEASURES, launch: "Launch | None" = None
) -> Result:
    """Return all that is measured of one case.

    Args:
        case: What the job is about.
        job: Of any task.
        measures: Which of `MEASURES` to take; ``memory`` is always taken.
        launch: Does a job; None for `launch_process`.
    """
    launch = launch or launch_process
    first = {}
    if "first" in measures:
        for engine in (OURS, REFERENCE) if job.reference else (OURS,):
            start = time.perf_counter()
            found = launch(replace(job, task="first", engine=engine))
            first[engine] = FirstPass(**{**found, "cold_start_s": time.perf_counter() - start})
    can_do_files = all(importlib.util.find_spec(name) is not None for name in FILES_NEED)
    files = None
    if "files" in measures and can_do_files:
        files = FilesPass(**launch(replace(job, task="files")))
    return Result(
        case=case,
        comparison=comparison_from(launch(replace(job, task="memory"))),
        first=first,
        files=files,
    )


def launch_process(job: Job) -> dict[str, Any]:
    """Do a job in a process of its own and return its result.

    Raises:
        ConfigError: It failed.
    """
    command = [sys.executable, "-P", "-m", f"{__package__}.job", json.dumps(asdict(job))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        raise ConfigError(f"measuring {job.model} ({job.task}): {reason[0].removeprefix('error: ')}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _job(case: Case, options: argparse.Namespace, paths: Sequence[Path], folder: Path) -> Job:
    """Write what the measurements of a case have in common, and return them."""
    images = folder / f"{case.long_side}px"
    if not images.exists():
        write_images(paths, case.long_side, images)
    checkpoint = options.checkpoint
    job = Job(
        task="memory",
        model=case.model,
        checkpoint=checkpoint,
        precision=case.precision,
        device=options.device,
        threads=options.threads,
        images=str(images),
        amg={name: getattr(options, name) for name in AMG_SETTINGS},
        repeats=options.repeats,
        reference=options.reference,
    )
    if options.checkpoint is not None or MODELS[case.model].bundled is not None:
        return job
    weights = folder / f"{case.model}-{case.long_side}px.pth"
    if not weights.exists():
        launch_process(replace(job, task="weights", output=str(weights)))
    return replace(job, checkpoint=str(weights))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog=called("tools.bench"),
        description="Time the mask generator, from files and in memory: models x image sizes x precisions.",
    )
    parser.add_argument("--model", nargs="+", choices=MODEL_NAMES, default=[DEFAULT_MODEL])
    parser.add_argument(
        "--checkpoint",
        help="weights, as model.checkpoint takes them; default: bundled for tiny, random for vit_*",
    )
    parser.add_argument("--images", nargs="+", help="files or folders (default: photos of scikit-image)")
    parser.add_argument("--limit", type=_positive, default=2, metavar="N", help="images at most (default 2)")
    parser.add_argument(
        "--long-side",
        nargs="+",
        type=_positive,
        default=[1024],
        metavar="PX",
        help="longer side that images are resized to (default 1024)",
    )
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or mps (default cpu)")
    parser.add_argument("--threads", type=_positive, default=1, metavar="N", help="CPU threads (default 1)")
    add_amg_flags(parser, AMG_SETTINGS)
    parser.add_argument(
        "--repeats", type=_positive, default=3, metavar="N", help="timed passes over the images (default 3)"
    )
    parser.add_argument(
        "--reference",
        action="store_true",
        help="run segment_anything in turn with ours, and compare the masks",
    )
    parser.add_argument(
        "--measures",
        nargs="+",
        choices=MEASURES,
        default=MEASURES,
        help="memory: time images in memory (always); files: files to Parquet; first: peak memory and cold "
        "start (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    if options.checkpoint is not None and len(options.model) > 1:
        raise ConfigError("--checkpoint is of one model; give one --model with it")
    return options


def _positive(text: str) -> int:
    """Return a number from 1 up."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def find_images(names: Sequence[str] | None) -> list[Path]:
    """Return the image files that are named or lie in the folders named, or photos of scikit-image.

    Raises:
        InputError: There are none, or one is missing.
    """
    if names is None:
        return [Path(sample_photos().root) / name for name in PHOTOS]
    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if not path.exists():
            raise InputError(f"image {name!r} does not exist")
        if path.is_dir():
            paths += sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_EXTENSIONS)
        else:
            paths.append(path)
    if not paths:
        raise InputError(f"no images in {', '.join(names)}")
    return paths


def write_images(paths: Sequence[Path], long_side: int, folder: Path) -> None:
    """Write upright RGB images as JPEG, their longer side resized to so many pixels, named in their order.

    Raises:
        InputError: One cannot be read.
    """
    from PIL import Image, ImageOps

    folder.mkdir()
    for number, path in enumerate(paths):
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file).convert("RGB")
        except OSError as error:
            raise InputError(f"{path}: {error}") from None
        scale = long_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=95)


def _describe_machine(options: argparse.Namespace, paths: Sequence[Path]) -> dict[str, str]:
    """Return what the numbers depend on."""
    machine = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": f"{_gpu_name(options.device)}{_cpu_name()}, {os.cpu_count()} cores",
        "software": f"torch {_version('torch')}, Python {platform.python_version()}, {platform.system()}",
        "threads": str(options.threads),
        "images": ", ".join(path.name for path in paths),
        "settings": ", ".join(f"{name}={getattr(options, name)}" for name in AMG_SETTINGS),
        "timed passes": str(options.repeats),
        "load at the start": _load_average(),
    }
    if options.reference and importlib.util.find_spec("torchvision") is None:
        machine["reference"] = "with a stand-in for torchvision's NMS, in Python"
    missing = [name for name in FILES_NEED if importlib.util.find_spec(name) is None]
    if "files" in options.measures and missing:
        machine["files to Parquet"] = f"not measured: {', '.join(missing)} is missing"
    return machine


def _version(package: str) -> str:
    """Return the version of an installed package."""
    return importlib.metadata.version(package)


def _gpu_name(device: str) -> str:
    """Return the name of a CUDA device, and a comma; nothing for other devices."""
    if not device.startswith("cuda"):
        return ""
    import torch

    from sam_engine.build_sam import choose_device

    return f"{torch.cuda.get_device_name(choose_device(ModelConfig(device=device)))}, "


def _cpu_name() -> str:
    """Return what Linux calls the processor, elsewhere what Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _load_average() -> str:
    """Return how many processes wanted to run in the last minute: what else the machine was doing."""
    return f"{os.getloadavg()[0]:.1f}"
