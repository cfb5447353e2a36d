"""How time grows with prompts and pixels: python -m tools.bench.growth --svg growth.svg.

One photo, with grids of 8 x 8 to 64 x 64 points, and in sizes of 0.3 to 12 megapixels. What a line through
the times leaves over says whether the cost is linear. With one CPU thread, CPU time is measured, which other
programs disturb less; else wall-clock time. Repeats take turns; the best of each counts.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sam_engine.__main__ import called
from sam_engine.catalogue import DEFAULT_MODEL, Thresholds
from sam_engine.config import MODEL_NAMES, AmgConfig, ModelConfig
from sam_engine.files import write_atomically

from ..command import command_line
from .generator import find_images

GRIDS = (8, 16, 32, 64)
MEGAPIXELS = (0.3, 1.0, 3.0, 6.0, 12.0)
GRID_MEGAPIXELS = 1.0
"""Of the image that the grids are laid over."""
SIZE_POINTS = 16
"""Points along a side, over images of all sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Times against one quantity, and the line through them."""

    quantity: str
    values: tuple[float, ...]
    seconds: tuple[float, ...]
    num_masks: tuple[int, ...]
    at_zero_s: float
    """Where the line begins."""
    slope_s: float
    """Seconds for each unit."""
    largest_error: float
    """Distance of a time from the line, as a share of the largest time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; draw if asked for."""
    options = _parse(arguments)
    growths = measure(options)
    if options.svg:
        write_atomically(Path(options.svg), draw(growths))
    text = json.dumps([asdict(growth) for growth in growths], indent=2) if options.json else describe(growths)
    sys.stdout.write(text + "\n")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog=called("tools.bench.growth"), description="Time the mask generator against points and pixels."
    )
    parser.add_argument("--model", choices=MODEL_NAMES, default=DEFAULT_MODEL)
    parser.add_argument("--checkpoint", help="weights; default: bundled for tiny, the release for vit_*")
    parser.add_argument("--image", help="file (default: a photo of scikit-image)")
    parser.add_argument(
        "--grids", nargs="+", type=int, default=GRIDS, metavar="N", help="points along a side"
    )
    parser.add_argument("--megapixels", nargs="+", type=float, default=MEGAPIXELS, metavar="MP")
    parser.add_argument("--pred-iou-thresh", type=float, default=Thresholds.pred_iou_thresh, metavar="T")
    parser.add_argument(
        "--stability-score-thresh", type=float, default=Thresholds.stability_score_thresh, metavar="T"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or mps (default cpu)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default 1)")
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="runs of each (default 2)")
    parser.add_argument("--svg", metavar="FILE", help="draw the times")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> list[Growth]:
    """Return how time grows with the number of points, and with that of pixels."""
    import torch
    from PIL import Image

    from sam_engine.automatic_mask_generator import SamAutomaticMaskGenerator
    from sam_engine.build_sam import load_model

    from .meters import synchronise, work_clock

    torch.set_num_threads(options.threads)
    sam = load_model(ModelConfig(name=options.model, checkpoint=options.checkpoint, device=options.device))
    path = find_images([options.image] if options.image else None)[0]
    photo = Image.open(path).convert("RGB")

    def resized(megapixels: float) -> Any:
        scale = (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5
        size = (round(photo.width * scale), round(photo.height * scale))
        return np.asarray(photo.resize(size, Image.Resampling.BICUBIC))

    config = AmgConfig(
        pred_iou_thresh=options.pred_iou_thresh, stability_score_thresh=options.stability_score_thresh
    )

    def work(points_per_side: int, megapixels: float) -> Callable[[], int]:
        image = resized(megapixels)
        generator = SamAutomaticMaskGenerator.from_config(
            sam, replace(config, points_per_side=points_per_side), "uncompressed_rle"
        )
        return lambda: len(generator.generate(image))

    clock = work_clock(sam.device)
    by_grid = [(float(n * n), work(n, GRID_MEGAPIXELS)) for n in options.grids]
    by_size = [(megapixels, work(SIZE_POINTS, megapixels)) for megapixels in options.megapixels]
    jobs = [job for _, job in (*by_grid, *by_size)]
    best, num_masks = [float("inf")] * len(jobs), [0] * len(jobs)
    jobs[0]()
    for _ in range(options.repeats):
        for i, job in enumerate(jobs):
            synchronise(sam.device)
            start = clock()
            num_masks[i] = job()
            synchronise(sam.device)
            best[i] = min(best[i], clock() - start)
    cut = len(by_grid)
    return [
        fit("points", [value for value, _ in by_grid], best[:cut], num_masks[:cut]),
        fit("megapixels", [value for value, _ in by_size], best[cut:], num_masks[cut:]),
    ]


def fit(quantity: str, values: Sequence[float], seconds: Sequence[float], num_masks: Sequence[int]) -> Growth:
    """Return the least-squares line through the times."""
    slope, start = np.polyfit(values, seconds, 1)
    errors = np.abs(np.polyval((slope, start), values) - seconds)
    return Growth(
        quantity=quantity,
        values=tuple(values),
        seconds=tuple(seconds),
        num_masks=tuple(num_masks),
        at_zero_s=float(start),
        slope_s=float(slope),
        largest_error=float(errors.max() / max(seconds)),
    )


def describe(growths: Sequence[Growth]) -> str:
    """Return the times as Markdown."""
    lines = []
    for growth in growths:
        lines += [f"| {growth.quantity} | s | masks |", "| --- | --- | --- |"]
        lines += [
            f"| {value:g} | {seconds:.3g} | {masks} |"
            for value, seconds, masks in zip(growth.values, growth.seconds, growth.num_masks, strict=True)
        ]
        lines += [
            "",
            f"{growth.at_zero_s:.3g} s + {growth.slope_s * 1e3:.3g} ms x {growth.quantity}; no time is "
            f"farther from the line than {growth.largest_error:.1%} of the largest.",
            "",
        ]
    return "\n".join(lines).rstrip()


WIDTH, HEIGHT, MARGIN = 420, 300, 60


def draw(growths: Sequence[Growth]) -> str:
    """Return the times and their lines as SVG, one chart beside the other."""
    charts = "".join(_chart(growth, i * WIDTH) for i, growth in enumerate(growths))
    size = f'width="{len(growths) * WIDTH}" height="{HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return f'{head}\n<rect {size} fill="white"/>\n{charts}</svg>\n'


def _chart(growth: Growth, left: int) -> str:
    """Return one chart, its left edge at so many pixels."""
    top_value, top_s = max(growth.values), max(growth.seconds)

    def place(value: float, seconds: float) -> tuple[float, float]:
        x = left + MARGIN + value / top_value * (WIDTH - 1.5 * MARGIN)
        return x, HEIGHT - MARGIN - seconds / top_s * (HEIGHT - 1.5 * MARGIN)

    (x0, y0), (x1, y1) = place(0, 0), place(top_value, top_s)
    _, start = place(0, growth.at_zero_s)
    _, stop = place(0, growth.at_zero_s + growth.slope_s * top_value)
    parts = [
        f'<path d="M{x0:.0f} {y1:.0f}V{y0:.0f}H{x1:.0f}" fill="none" stroke="black"/>',
        f'<path d="M{x0:.1f} {start:.1f}L{x1:.1f} {stop:.1f}" stroke="gray"/>',
        f'<text x="{(x0 + x1) / 2:.0f}" y="{HEIGHT - 15}" text-anchor="middle">{growth.quantity}</text>',
        f'<text x="{x0 - 5:.0f}" y="{y1 + 4:.0f}" text-anchor="end">{top_s:.3g} s</text>',
        f'<text x="{x0 - 5:.0f}" y="{y0:.0f}" text-anchor="end">0</text>',
    ]
    for value, seconds in zip(growth.values, growth.seconds, strict=True):
        x, y = place(value, seconds)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<text x="{x:.1f}" y="{y0 + 16:.0f}" text-anchor="middle">{value:g}</text>')
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    command_line(main)
