"""How an image's page keeps up with many masks: python -m tools.bench.viewer_page --masks 1000.

Draws masks of many sizes with rough edges on one image, serves it, opens its page in a headless Chromium and
does what people do: opens it, moves the pointer over it, clicks through stacked masks, moves a slider; and on
the annotator's page picks masks, deletes them and takes that back. Times are the
page's own (User Timing), from the event to when what it changed has been painted. Needs Playwright and a
`chromium`.
"""

import argparse
import hashlib
import io
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_engine.__main__ import called
from sam_engine.dataset.manifest import build_manifest
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.run_info import RunInfo
from sam_engine.dataset.schema import MANIFEST, RUN_INFO
from sam_engine.dataset.shards import publish_shard
from sam_engine.errors import ConfigError
from sam_engine.inputs.source import InputFile
from sam_engine.ops.rle import area_of, bbox_of, runs_to_counts
from sam_engine.storage.local import LocalStore
from sam_engine.structures import Annotation, ImageRecord, ImageStatus, Shard
from sam_engine.web.annotate_routes import Annotator
from sam_engine.web.annotating import Annotating
from sam_engine.web.app import Viewer
from sam_engine.web.server import serving

from ..command import command_line

MEASURES = {
    "masks decoded": "opened: masks decoded and painted",
    "pointer to outline": "pointermove to drawn outline",
    "click to pinned": "click to pinned mask",
    "slider to masks": "slider to filtered masks",
    "pick": "annotator: click to picked mask",
    "delete": "annotator: key to deleted mask",
    "undo": "annotator: key to undone deletion",
}
"""User Timing measures of the page, and what the table calls them."""
PAUSE_MS = 30
"""Between events."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, serve, ask, and print the table."""
    parser = argparse.ArgumentParser(
        prog=called("tools.bench.viewer_page"), description="Time the viewer's page of one image."
    )
    parser.add_argument("--masks", type=int, default=1000, help="on the image (default 1,000)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(1500, 2250), metavar=("H", "W"), help="(default 1500 2250)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="times that the page is opened (default 5)")
    parser.add_argument("--events", type=int, default=200, help="pointer moves in all (default 200)")
    parser.add_argument("--edits", type=int, default=20, help="masks picked, deleted, undone (default 20)")
    parser.add_argument(
        "--folder", help="where image and dataset are written, and kept (default: a temporary folder)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    try:
        from playwright import sync_api as _  # noqa: F401 - asked for before anything is drawn
    except ModuleNotFoundError as error:
        raise ConfigError("playwright is missing: pip install playwright") from error
    if shutil.which("chromium") is None:
        raise ConfigError("chromium is not installed: apt-get install chromium")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        if not (folder / "out").exists():
            write_image(folder, options.masks, tuple(options.size))
        viewer = Viewer(open_dataset(folder / "out"))
        viewer.annotator = Annotator(annotating=Annotating(viewer.dataset, viewer.places), name="bench")
        viewer.listing.look()
        with serving(viewer) as address:
            times = measure(address, options.repeats, options.events)
            times |= measure_edits(address, options.edits)
    figures = {name: summary(times[name]) for name in MEASURES}
    sys.stdout.write((json.dumps(figures) if options.json else table(figures)) + "\n")
    return 0


def write_image(folder: Path, num_masks: int, size: tuple[int, int]) -> None:
    """Write ``in/a.jpg``, noise of (H, W), and ``out``, a dataset of it with so many masks."""
    height, width = size
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (height // 15, width // 15, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
    (folder / "in").mkdir(parents=True)
    (folder / "in/a.jpg").write_bytes(data.getvalue())
    modified = (folder / "in/a.jpg").stat().st_mtime_ns
    manifest = build_manifest([InputFile(path=b"a.jpg", size=len(data.getvalue()), mtime_ns=modified)])
    info = RunInfo(
        settings={"schema_version": 1, "shard_size": 1, "model.name": "none"},
        selection={"input": str(folder / "in")},
        random_weights=False,
        num_images=1,
        num_shards=1,
        versions={},
    )
    record = ImageRecord(
        image_id=0,
        path=b"a.jpg",
        status=ImageStatus.OK,
        width=width,
        height=height,
        sha256=hashlib.sha256(data.getvalue()).hexdigest(),
        annotations=tuple(annotations(num_masks, size)),
    )
    store = LocalStore(folder / "out")
    store.replace(RUN_INFO, info.to_json())
    store.replace(MANIFEST, manifest.to_bytes())
    shard = Shard(index=0, start=0, stop=1)
    publish_shard(store, [record], shard=shard, fingerprint=info.fingerprint)


def annotations(count: int, size: tuple[int, int]) -> Iterator[Annotation]:
    """Yield masks as models make them: a few of half an image, many of some pixels, edges rough."""
    rng, (height, width) = np.random.default_rng(1), size
    for _ in range(count):
        radius = 0.35 * min(size) * 0.01 ** rng.random()
        centre = rng.random(2) * size
        y0, x0 = (int(max(0, value - 1.4 * radius)) for value in centre)
        y1, x1 = (int(min(side, value + 1.4 * radius + 1)) for side, value in zip(size, centre, strict=True))
        rows, columns = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        dy, dx = rows - np.float32(centre[0]), columns - np.float32(centre[1])
        angle, edge = np.arctan2(dy, dx), np.full(dy.shape, radius, np.float32)
        for wave in (2, 3, 5, 9, 17):
            edge += np.float32(0.25 * radius / wave) * np.cos(wave * angle + np.float32(6.3 * rng.random()))
        runs = _runs(np.hypot(dy, dx) + 2 * rng.random(dy.shape) <= edge, (x0, y0), size)
        iou, stability = rng.uniform(0.8, 1.0, 2).tolist()
        if len(runs) > 1:
            yield Annotation(
                size=size,
                counts=runs_to_counts(runs),
                bbox=bbox_of(runs, size),
                area=area_of(runs),
                predicted_iou=iou,
                stability_score=stability,
                crop_box=(0.0, 0.0, float(width), float(height)),
                point_coords=((float(centre[1]), float(centre[0])),),
            )


def _runs(part: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the runs of an image of (H, W) that is ``part`` from ``corner`` on, an (x, y)."""
    height, width = size
    padded = np.zeros((part.shape[1], part.shape[0] + 2), np.int8)
    padded[:, 1:-1] = part.T
    columns, rows = np.nonzero(np.diff(padded, axis=1))
    places = (corner[0] + columns) * height + corner[1] + rows
    return np.diff(places, prepend=0, append=height * width)


def measure(address: str, repeats: int, num_events: int) -> Mapping[str, list[float]]:
    """Open the page so often and do what people do; return milliseconds by measure."""
    from playwright.sync_api import sync_playwright

    times: dict[str, list[float]] = {name: [] for name in MEASURES}
    rng = np.random.default_rng(2)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(repeats):
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.add_init_script(_OBSERVE)
            page.goto(f"{address}#/image/0")
            page.wait_for_selector("#summary")
            page.wait_for_function("() => window.measured.length")
            page.wait_for_timeout(1000)  # the picture itself
            box = page.locator(".stage").bounding_box()
            places = box["x"], box["y"], box["width"], box["height"]
            slider = page.locator("input[name=predicted_iou]")
            for x, y in _places(rng, places, num_events // repeats):
                page.mouse.move(x, y)
                page.wait_for_timeout(PAUSE_MS)
            for x, y in _places(rng, places, num_events // repeats // 5):
                page.mouse.click(x, y)
                page.wait_for_timeout(PAUSE_MS)
            for value in rng.uniform(0.8, 0.9, num_events // repeats // 20):
                slider.evaluate(_SLIDE, float(value))
                page.wait_for_timeout(10 * PAUSE_MS)
            found = page.evaluate("() => window.measured")
            clicks = next((place for place, (name, _) in enumerate(found) if name.startswith("click")), None)
            for name in MEASURES:  # a pointer that clicks also moves, with other work in hand
                part = found[:clicks] if name == "pointer to outline" else found
                times[name] += [duration for each, duration in part if each == name]
            page.close()
        browser.close()
    return times


def measure_edits(address: str, num_edits: int) -> Mapping[str, list[float]]:
    """Pick, delete and undo so often on the annotator's page; return milliseconds by measure."""
    from playwright.sync_api import sync_playwright

    rng = np.random.default_rng(3)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script(_OBSERVE)
        page.goto(f"{address}#/annotate")
        page.wait_for_selector("#summary")
        page.wait_for_timeout(4000)  # picture, masks, and the model if there is one
        box = page.locator(".stage").bounding_box()
        inner = box["x"] + 60, box["y"] + 140, box["width"] - 120, box["height"] - 200
        for x, y in _places(rng, inner, num_edits):
            page.mouse.click(x, y)
            for key in ("x", "z"):
                page.wait_for_timeout(2 * PAUSE_MS)
                page.keyboard.press(key)
            page.wait_for_timeout(2 * PAUSE_MS)
        page.wait_for_timeout(1500)
        found = page.evaluate("() => window.measured")
        browser.close()
    return {name: [ms for each, ms in found if each == name] for name in ("pick", "delete", "undo")}


def _places(
    rng: np.random.Generator, box: tuple[float, float, float, float], count: int
) -> Iterator[tuple[float, float]]:
    """Yield places in a box (x, y, width, height), drawn evenly."""
    for _ in range(count):
        yield box[0] + rng.random() * box[2], box[1] + rng.random() * box[3]


_OBSERVE = """window.measured = [];
new PerformanceObserver((list) => {
    for (const { name, duration } of list.getEntries()) window.measured.push([name, duration]);
}).observe({ entryTypes: ["measure"] });"""
_SLIDE = """(input, value) => {
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
}"""


def summary(times: Sequence[float]) -> dict[str, Any]:
    """Return number, median and 95th percentile, in ms."""
    if not times:
        return {"count": 0, "median_ms": None, "p95_ms": None, "max_ms": None}
    return {
        "count": len(times),
        "median_ms": round(statistics.median(times), 1),
        "p95_ms": round(float(np.percentile(times, 95)), 1),
        "max_ms": round(max(times), 1),
    }


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures as text."""
    lines = [f"{'':<36}{'count':>8}{'median ms':>12}{'p95 ms':>10}{'max ms':>10}"]
    for name, each in figures.items():
        values = [str(each[key]) for key in ("count", "median_ms", "p95_ms", "max_ms")]
        lines.append(f"{MEASURES[name]:<36}{values[0]:>8}{values[1]:>12}{values[2]:>10}{values[3]:>10}")
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(main)
