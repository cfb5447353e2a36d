"""Does memory grow with the number of images? python -m tools.bench.soak --images 2000 --model small.

Makes a dataset of so many images in this process, from files to Parquet, and notes its resident memory
before each image. Of the second half, when caches and allocators are warm, the slope is told. ``small`` is a
network of the kind of `tiny` with random weights and a hundredth of its work, for long runs. Linux only.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sam_engine.__main__ import called
from sam_engine.config import AmgConfig, AutoAnnotateConfig, ExecutorConfig, ModelConfig
from sam_engine.errors import ConfigError

from ..command import command_line
from .generator import find_images, write_images

if TYPE_CHECKING:
    from sam_engine.modeling.sam import Sam

MODELS = ("small", "tiny")
STATM = Path("/proc/self/statm")
SHARD_SIZE = 50
SMALL_SIDES = (96, 160, 224, 320)
"""Long sides of the images for small, in pixels."""
TINY_SIDES = (384, 512, 640, 768)


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """Resident memory over a run."""

    model: str
    num_images: int
    num_masks: int
    rss_bytes: tuple[int, ...]
    """Before each image, and after the last."""

    @property
    def slope_bytes(self) -> float:
        """Growth for each image of the second half, by least squares."""
        half = self.rss_bytes[len(self.rss_bytes) // 2 :]
        return float(np.polyfit(range(len(half)), half, 1)[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog=called("tools.bench.soak"), description="Watch a process's memory over many images."
    )
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="how many (default 2000)")
    parser.add_argument("--points-per-side", type=int, default=8, metavar="N", help="(default 8)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default 1)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    if not STATM.exists():
        raise ConfigError(f"resident memory is read from {STATM}, which this system does not have")
    if options.images < 4:
        raise ConfigError(f"--images is {options.images}; a slope needs 4 or more")
    soak = measure(options.model, options.images, options.points_per_side, options.threads)
    if options.json:
        text = json.dumps({**asdict(soak), "slope_bytes": soak.slope_bytes}, indent=2)
    else:
        text = describe(soak)
    sys.stdout.write(text + "\n")
    return 0


def measure(model: str, num_images: int, points_per_side: int, threads: int) -> Soak:
    """Make a dataset of so many images and note the memory."""
    from sam_engine.annotation.run import RunEvent, annotate_dataset
    from sam_engine.structures import ShardProgress

    sides = SMALL_SIDES if model == "small" else TINY_SIDES
    # Random weights find nothing above any threshold, and what they find covers the whole image.
    thresholds = (0.0, 0.0, 1.0) if model == "small" else (0.4, 0.75, 0.7)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        _write_many(images, num_images, sides)
        config = AutoAnnotateConfig(
            input=str(images),
            output=str(Path(folder) / "dataset"),
            model=ModelConfig(checkpoint="random" if model == "small" else None, device="cpu"),
            amg=AmgConfig(
                points_per_side=points_per_side,
                pred_iou_thresh=thresholds[0],
                stability_score_thresh=thresholds[1],
                box_nms_thresh=thresholds[2],
            ),
            executor=ExecutorConfig(name="inline", threads_per_worker=threads),
            shard_size=SHARD_SIZE,
            previews=0,
        )
        rss: dict[int, int] = {}

        def note(event: RunEvent) -> None:
            if isinstance(event, ShardProgress) and event.image_id is not None:
                rss[event.image_id] = _rss_bytes()

        summary = annotate_dataset(config, note, make_model=_make_small if model == "small" else None)
        rss[num_images] = _rss_bytes()
    num_masks = summary.totals.num_masks
    return Soak(model=model, num_images=num_images, num_masks=num_masks, rss_bytes=tuple(rss.values()))


def describe(soak: Soak) -> str:
    """Return a table of tenths of the run, and the slope."""
    lines = [f"{soak.num_images:,} images, {soak.num_masks:,} masks, {soak.model}", ""]
    lines += ["| images done | resident MiB |", "| --- | --- |"]
    last = len(soak.rss_bytes) - 1
    for tenth in range(11):
        index = round(last * tenth / 10)
        lines.append(f"| {index:,} | {soak.rss_bytes[index] / 2**20:.1f} |")
    slope = soak.slope_bytes
    lines += [
        "",
        f"second half: {slope:+.0f} bytes for each image, {slope * 1e6 / 2**30:+.2f} GiB in a million",
    ]
    return "\n".join(lines)


def _write_many(folder: Path, number: int, sides: Sequence[int]) -> None:
    """Write photos in several sizes, and as many further names for them as are wanted."""
    photos = find_images(None)
    originals: list[Path] = []
    for side in sides:
        some = folder.with_name(f"{folder.name}-{side}")
        write_images(photos, side, some)
        originals += sorted(some.iterdir())
    folder.mkdir()
    for i, original in zip(range(number), _again_and_again(originals), strict=False):
        os.link(original, folder / f"{i:06d}.jpg")


def _again_and_again(paths: Sequence[Path]) -> Iterator[Path]:
    while True:
        yield from paths


def _make_small() -> "Sam":
    """Return a network of a hundred thousand random weights, the same ones every time."""
    import torch

    from sam_engine.build_sam import build_architecture
    from sam_engine.catalogue import ARCHITECTURES

    torch.manual_seed(0)
    small = replace(
        ARCHITECTURES["tiny"],
        image_size=128,
        trunk_width=0.25,
        prompt_embed_dim=32,
        decoder_heads=2,
        decoder_mlp_dim=32,
        iou_head_hidden_dim=16,
    )
    return build_architecture(small)


def _rss_bytes() -> int:
    """Return the resident memory of this process."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    command_line(main)
