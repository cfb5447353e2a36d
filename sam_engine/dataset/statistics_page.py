"""What the masks of a dataset are like, read from all its shards, and as one page that needs nothing else."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.statistics import MEASURE_COLUMNS, Statistics

CHARTS = {
    "masks_an_image": "Masks an image",
    "side_share": "Size of masks: square root of the share of the image",
    "predicted_iou": "Predicted IoU",
    "stability_score": "Stability score",
}
"""Titles of what `Statistics.to_json` counts by bin."""

_WIDTH, _HEIGHT, _MAP = 440, 170, 320
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 940px; padding: 0 1rem }
main { display: flex; flex-wrap: wrap; gap: 1rem 2rem }
h2 { font-size: 1rem; margin: 0 }
td { padding-right: 1rem }
.number { text-align: right }
svg { max-width: 100%; fill: currentColor }
text { font-size: 10px }
rect { fill: #2a78b8 }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } }
"""


def dataset_statistics(dataset: Dataset) -> dict[str, Any]:
    """Return totals, images by status, and bins of masks as JSON values; an open end of a bin is null.

    Rows are counted as they are, without corrections.

    Raises:
        ShardError: One is damaged.
    """
    counted = Statistics()
    for table in dataset.tables(["num_masks", *MEASURE_COLUMNS]):
        counted.add(table["num_masks"].to_numpy(), [table.select(["annotations"])])
    return {
        "num_images": dataset.num_images,
        "num_planned": dataset.num_planned,
        "num_masks": dataset.num_masks,
        "statuses": dict(dataset.statuses),
        **counted.to_json(),
    }


def statistics_page(name: str, found: Mapping[str, Any]) -> str:
    """Return statistics as an HTML page with drawings inside it; it asks for no other file.

    Args:
        name: Of the dataset.
        found: From `dataset_statistics`.
    """
    title = html.escape(name)
    rows = "".join(
        f'<tr><td>{html.escape(status)}</td><td class="number">{count:,}</td></tr>'
        for status, count in found["statuses"].items()
    )
    missing = found["num_planned"] - found["num_images"]
    half = f" {missing:,} images are still to be made." if missing > 0 else ""
    charts = "".join(_section(title, _bars(title, **found[key])) for key, title in CHARTS.items())
    centres = "Where masks have their centres"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head><body>
<h1>{title}</h1>
<p>{found["num_images"]:,} images, {found["num_masks"]:,} masks.{half}</p>
<main>{_section("Images by status", f"<table>{rows}</table>")}{charts}
{_section(centres, _heat(centres, found["centres"]))}</main></body></html>
"""


def _section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>\n"


def _bars(title: str, edges: Sequence[float | None], counts: Sequence[int]) -> str:
    """Return a bar chart; an open edge is None."""
    base, most, step = _HEIGHT - 28, max(1, *counts), (_WIDTH - 10) / len(counts)
    shapes = []
    for place, count in enumerate(counts):
        tall = count / most * (base - 8)
        low, high = edges[place], edges[place + 1]
        label = f"{'below' if low is None else f'{low:g}'} to {'above' if high is None else f'{high:g}'}"
        shapes.append(
            f'<rect x="{5 + place * step:.1f}" y="{base - tall:.1f}" width="{step - 1:.1f}" '
            f'height="{tall:.1f}"><title>{label}: {count:,}</title></rect>'
        )
    every = math.ceil(len(edges) / 9)
    shapes += [
        f'<text x="{5 + place * step:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{edge:g}</text>'
        for place, edge in enumerate(edges)
        if edge is not None and place % every == 0
    ]
    return _svg(title, _WIDTH, _HEIGHT, shapes)


def _heat(title: str, cells: Sequence[Sequence[int]]) -> str:
    """Return a map of cells, the more the stronger."""
    step, most = _MAP / len(cells), max(1, *(count for row in cells for count in row))
    shapes = [
        f'<rect x="{x * step:g}" y="{y * step:g}" width="{step:g}" height="{step:g}" '
        f'fill-opacity="{math.sqrt(count / most):.3f}"><title>{count:,}</title></rect>'
        for y, row in enumerate(cells)
        for x, count in enumerate(row)
        if count
    ]
    return _svg(title, _MAP, _MAP, shapes)


def _svg(title: str, width: int, height: int, shapes: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(shapes)}</svg>'
    )
