"""Time the mask generator: python -m tools.bench --model tiny --reference.

One process, one table: models x image sizes x precisions, each with its stages, memory and cold start. With
--reference, the same images, weights and settings go through the segment_anything package. tiny has its own
weights; vit_* get random ones, calibrated so that as many masks pass the filters as with a trained model,
unless --checkpoint is given. docs/performance.md says how to read the table.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam_engine.config import MODEL_NAMES, PRECISIONS, AmgConfig, ModelConfig
from sam_engine.dataset.inputs import IMAGE_EXTENSIONS, sample_photos
from sam_engine.errors import ConfigError, InputError
from tools.command import run

if TYPE_CHECKING:
    from tools.bench_run import Comparison, Measurement

PHOTOS = ("coffee.png", "rocket.jpg", "chelsea.png", "motorcycle_left.png", "astronaut.png")
"""Of scikit-image, in the order that --limit takes them: first those that are 3:2, as most photos are."""

AMG_SETTINGS = ("points_per_side", "points_per_batch", "pred_iou_thresh", "stability_score_thresh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table, or two with the reference."""

    model: str
    long_side: int
    """Of the images, in pixels."""
    precision: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    start = time.perf_counter()
    options = _parse(arguments)
    paths = _find_images(options.images)[: options.limit]
    config = AmgConfig(**{name: getattr(options, name) for name in AMG_SETTINGS})
    cases = [
        Case(model=model, long_side=long_side, precision=precision)
        for model in options.model
        for long_side in options.long_side
        for precision in options.precision
    ]
    configs = [
        ModelConfig(
            name=case.model,
            checkpoint=options.checkpoint,
            device=options.device,
            precision=case.precision,
        )
        for case in cases
    ]
    import torch

    torch.set_num_threads(options.threads)
    from tools.bench_run import load_images

    imports_s = time.perf_counter() - start
    machine = _describe_machine(configs[0], options, paths)
    results = []
    for case, model_config in zip(cases, configs, strict=True):
        images = load_images(paths, case.long_side)
        results.append(_measure(model_config, images, config, options, imports_s))
    machine["load at the end"] = _load_average()
    if options.json:
        runs = [{"case": asdict(case), **asdict(result)} for case, result in zip(cases, results, strict=True)]
        sys.stdout.write(json.dumps({"machine": machine, "runs": runs}, indent=2) + "\n")
    else:
        sys.stdout.write(describe(machine, cases, results) + "\n")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description="Time the mask generator on images in memory: models x image sizes x precisions.",
    )
    parser.add_argument("--model", nargs="+", choices=MODEL_NAMES, default=["tiny"])
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
    for name in AMG_SETTINGS:
        default = getattr(AmgConfig, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            metavar="N",
            help=f"of the mask generator (default {default})",
        )
    parser.add_argument(
        "--repeats", type=_positive, default=3, metavar="N", help="timed passes over the images (default 3)"
    )
    parser.add_argument(
        "--reference",
        action="store_true",
        help="run segment_anything in turn with ours, and compare the masks",
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


def _find_images(names: Sequence[str] | None) -> list[Path]:
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


def _measure(
    model_config: ModelConfig,
    images: Sequence[Any],
    config: AmgConfig,
    options: argparse.Namespace,
    imports_s: float,
) -> "Comparison":
    """Load a model, calibrate random weights, measure."""
    import torch

    from sam_engine.build import ARCHITECTURES, load_model
    from sam_engine.modeling.sam import cuda_tf32
    from tools.bench_calibration import calibrate
    from tools.bench_meters import measure_matmul_rate
    from tools.bench_run import measure
    from tools.reference import import_segment_anything

    is_random = options.checkpoint is None and model_config.name != "tiny"
    start = time.perf_counter()
    sam = load_model(replace(model_config, checkpoint="random") if is_random else model_config)
    load_s = time.perf_counter() - start
    if is_random:
        calibrate(sam, sam.encode(images[:1])[0], config)
    package = import_segment_anything(sam.device) if options.reference else None
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(model_config.precision, torch.float32)
    with cuda_tf32(sam.device, model_config.precision == "tf32"):
        encoder_rate = measure_matmul_rate(sam.device, half)
    with cuda_tf32(sam.device, False):
        decoder_rate = measure_matmul_rate(sam.device, torch.float32)
    return measure(
        sam,
        ARCHITECTURES[model_config.name],
        images,
        config,
        repeats=options.repeats,
        rates=(encoder_rate, decoder_rate),
        start_up_s=imports_s + load_s,
        package=package,
    )


def _describe_machine(
    config: ModelConfig, options: argparse.Namespace, paths: Sequence[Path]
) -> dict[str, str]:
    """Return what the numbers depend on."""
    import torch

    from sam_engine.build import choose_device
    from tools.reference import has_torchvision

    device = choose_device(config)
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    machine = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": f"{gpu}{_cpu_name()}, {os.cpu_count()} cores",
        "software": f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}",
        "threads": str(options.threads),
        "images": ", ".join(path.name for path in paths),
        "settings": ", ".join(f"{name}={getattr(options, name)}" for name in AMG_SETTINGS),
        "timed passes": str(options.repeats),
        "load at the start": _load_average(),
    }
    if options.reference and not has_torchvision():
        machine["reference"] = "with a stand-in for torchvision's NMS, in Python"
    return machine


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


COLUMNS = (
    "model",
    "px",
    "precision",
    "engine",
    "p50 s",
    "p90 s",
    "images/s",
    "masks",
    "masks/s",
    "encode s",
    "decode s",
    "post s",
    "peak MiB",
    "syncs",
    "cold start s",
    "floor s",
    "ratio",
    "identical",
)


def describe(machine: dict[str, str], cases: Sequence[Case], results: Sequence["Comparison"]) -> str:
    """Return all results as Markdown: what they depend on, the table, and the floors."""
    lines = [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
    for case, result in zip(cases, results, strict=True):
        for measurement in (result.ours, result.reference):
            if measurement is not None:
                lines.append(_row(_cells(case, result, measurement)))
    lines.append("")
    for case, result in zip(cases, results, strict=True):
        survival = result.survival
        lines.append(
            f"- {case.model}, {case.long_side} px, {case.precision}: an image takes at least "
            f"{result.encoder_gflop:.3g} GFLOP to encode and {result.decoder_gflop:.3g} to decode; matrix "
            f"products ran at {result.encoder_rate:.0f} and {result.decoder_rate:.0f} GFLOP/s. Of the first "
            f"image's candidates, {survival.iou:.0%} passed on predicted IoU, {survival.both:.0%} on both."
        )
    return "\n".join(lines)


def _cells(case: Case, result: "Comparison", measurement: "Measurement") -> list[str]:
    """Return one line of the table; a dash stands where there is nothing to tell."""
    import numpy as np

    total_s, is_ours = sum(measurement.seconds), measurement is result.ours
    p50, p90 = np.percentile(measurement.seconds, [50, 90])
    ratio = None
    if is_ours and result.reference is not None:
        ratio = f"{sum(result.reference.seconds) / total_s:.2f}"
    identical = f"{result.identical:.1%}" if is_ours and result.identical is not None else None
    cells = [
        case.model,
        str(case.long_side),
        case.precision if is_ours else "fp32",
        measurement.engine,
        _seconds(p50),
        _seconds(p90),
        f"{len(measurement.seconds) / total_s:.3g}",
        f"{np.mean(measurement.num_masks):.0f}",
        f"{sum(measurement.num_masks) / total_s:.3g}",
        _seconds(measurement.encode_s),
        _seconds(measurement.decode_s),
        _seconds(measurement.post_s),
        f"{measurement.peak_bytes / 2**20:.0f}",
        None if measurement.syncs is None else f"{measurement.syncs:.0f}",
        None if measurement.cold_start_s is None else _seconds(measurement.cold_start_s),
        _seconds(result.floor_s) if is_ours else None,
        ratio,
        identical,
    ]
    return [cell or "-" for cell in cells]


def _seconds(value: float) -> str:
    """Return seconds to three digits."""
    return f"{value:.3g}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(run(main))
