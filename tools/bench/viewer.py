"""How the viewer keeps up with a large dataset: python -m tools.bench.viewer --images 1000000.

Writes a dataset of so many rows, 500 a shard and 20 masks each, whose run lengths are drawn from those of a
real dataset (or of drawn ellipses), then asks what people ask: the first page before anything is read, single
images, and, once all has been read in the background, searches, orders, filters and statistics. Images
themselves are not part of it.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sam_engine.__main__ import called
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.run_info import RunInfo
from sam_engine.dataset.schema import ROW_GROUP_IMAGES, RUN_INFO, records_to_table
from sam_engine.dataset.shards import encode_tables, shard_name
from sam_engine.errors import ConfigError
from sam_engine.ops.rle import area_of, bbox_of, mask_to_runs, runs_to_counts
from sam_engine.storage.local import LocalStore
from sam_engine.structures import ANNOTATIONS_PER_IMAGE, Annotation, ImageRecord, ImageStatus, Shard
from sam_engine.web.app import Viewer
from sam_engine.web.listing import Query

from ..command import command_line

SHARD_SIZE = 500
MASKS_AN_IMAGE = 20
NUM_SHAPES = 1000
"""Different masks that images are given."""
STATM = Path("/proc/self/statm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the dataset, ask, and print what it took."""
    parser = argparse.ArgumentParser(
        prog=called("tools.bench.viewer"), description="Time the viewer on many rows."
    )
    parser.add_argument("--images", type=int, default=100_000, help="rows (default 100,000)")
    parser.add_argument("--shapes", help="dataset whose masks are taken (default: drawn ellipses)")
    parser.add_argument(
        "--folder", help="where the dataset is written, and kept (default: a temporary folder)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    if options.images < SHARD_SIZE or not STATM.exists():
        raise ConfigError(f"--images is {options.images}; at least {SHARD_SIZE} are needed, on Linux")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        if not (folder / RUN_INFO).exists():
            shapes = list(_shapes_of(options.shapes) if options.shapes else _ellipses())
            write_rows(folder, options.images // SHARD_SIZE, shapes)
        figures = measure(folder)
    text = (
        json.dumps(figures)
        if options.json
        else "\n".join(f"{name:<44}{value}" for name, value in figures.items())
    )
    sys.stdout.write(text + "\n")
    return 0


def write_rows(folder: Path, num_shards: int, shapes: Sequence[Annotation]) -> None:
    """Write a dataset of so many shards whose rows have masks of these shapes, but no images or manifest."""
    store, rng = LocalStore(folder), np.random.default_rng(0)
    info = RunInfo(
        settings={"schema_version": 1, "shard_size": SHARD_SIZE, "model.name": "none"},
        selection={"input": "none"},
        random_weights=False,
        num_images=num_shards * SHARD_SIZE,
        num_shards=num_shards,
        versions={},
    )
    store.replace(RUN_INFO, info.to_json())
    templates = [_group(number, shapes, rng) for number in range(SHARD_SIZE // ROW_GROUP_IMAGES)]
    for index in range(num_shards):
        shard = Shard(index=index, start=index * SHARD_SIZE, stop=(index + 1) * SHARD_SIZE)
        tables = [_moved(table, shard.start + table["image_id"][0].as_py()) for table in templates]
        data = encode_tables(
            tables,
            shard=shard,
            fingerprint=info.fingerprint,
            statuses={ImageStatus.OK.value: SHARD_SIZE},
            num_masks=SHARD_SIZE * MASKS_AN_IMAGE,
        )
        store.replace(shard_name(index), data)


def measure(folder: Path) -> dict[str, Any]:
    """Ask what people ask, in the order that they do."""
    rng, figures = np.random.default_rng(1), {}
    viewer = Viewer(open_dataset(folder))
    figures["first page, nothing read (s)"] = _seconds(lambda: viewer.images(Query(), 0, 60))
    num_images = int(viewer.dataset.run_info["num_images"])
    ids = rng.integers(0, num_images, 200).tolist()
    times = [_seconds(lambda image_id=image_id: viewer.image(image_id)) for image_id in ids]
    figures["an image with its masks, median (ms)"] = round(1000 * statistics.median(times), 1)
    figures["an image with its masks, p95 (ms)"] = round(1000 * sorted(times)[int(0.95 * len(times))], 1)
    before = _resident_bytes()
    figures["reading all in the background (s)"] = _seconds(viewer.listing.look)
    figures["memory for it (MiB)"] = round((_resident_bytes() - before) / 2**20)
    figures["images read"] = viewer.listing.progress().num_images
    figures["masks read"] = viewer.listing.progress().num_masks
    for name, query in (
        ("search", Query(text=f"{num_images - 7:09d}")),
        ("order by masks", Query(order="num_masks", descending=True)),
        ("order by mean IoU", Query(order="mean_iou")),
        ("filter and random sample", Query(min_masks=5, sample=3)),
    ):
        figures[f"{name}, first (s)"] = _seconds(lambda query=query: viewer.images(query, 0, 60))
        figures[f"{name}, again (s)"] = _seconds(lambda query=query: viewer.images(query, 60, 60))
    figures["statistics (s)"] = _seconds(viewer.statistics)
    return figures


def _seconds(ask: Callable[[], object]) -> float:
    start = time.perf_counter()
    ask()
    return round(time.perf_counter() - start, 4)


def _resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _group(number: int, shapes: Sequence[Annotation], rng: np.random.Generator) -> pa.Table:
    """Return one row group with masks drawn from the shapes."""
    height, width = shapes[0].size
    first = number * ROW_GROUP_IMAGES
    records = []
    for image_id in range(first, first + ROW_GROUP_IMAGES):
        masks = [shapes[choice] for choice in rng.integers(0, len(shapes), MASKS_AN_IMAGE)]
        scores = rng.uniform(0.5, 1.0, (MASKS_AN_IMAGE, 2)).tolist()
        records.append(
            ImageRecord(
                image_id=image_id,
                path=b"",
                status=ImageStatus.OK,
                width=width,
                height=height,
                sha256=f"{image_id:064x}",
                annotations=tuple(
                    replace(mask, predicted_iou=iou, stability_score=stability)
                    for mask, (iou, stability) in zip(masks, scores, strict=True)
                ),
            )
        )
    return records_to_table(records)


def _moved(table: pa.Table, first: int) -> pa.Table:
    """Return a row group whose images have the ids from ``first`` on, and names that follow from them."""
    ids = np.arange(first, first + len(table))
    names = pa.array([f"folder-{number // 10_000:05d}/photo-{number:09d}.jpg" for number in ids.tolist()])
    annotations = table["annotations"].combine_chunks()
    values = annotations.values
    mask_ids = np.repeat(ids, MASKS_AN_IMAGE) * ANNOTATIONS_PER_IMAGE + np.tile(
        np.arange(MASKS_AN_IMAGE), len(ids)
    )
    leaves = [pa.array(mask_ids) if field.name == "id" else values.field(field.name) for field in values.type]
    moved = pa.StructArray.from_arrays(leaves, fields=list(values.type))
    lists = pa.ListArray.from_arrays(annotations.offsets, moved, type=annotations.type)
    for name, column in (("image_id", pa.array(ids)), ("file_name", names), ("annotations", lists)):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), column)
    return table


def _ellipses() -> Iterator[Annotation]:
    """Yield drawn masks on an image of 1500 x 2250 pixels, most of them small."""
    rng, (height, width) = np.random.default_rng(2), (1500, 2250)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(NUM_SHAPES):
        radii = 8 * 60 ** rng.random(2)
        centre = rng.random(2) * (height, width)
        inside = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1
        runs = mask_to_runs(inside)
        x, y, w, h = bbox_of(runs, (height, width))
        yield Annotation(
            size=(height, width),
            counts=runs_to_counts(runs),
            bbox=(float(x), float(y), float(w), float(h)),
            area=area_of(runs),
            predicted_iou=0.9,
            stability_score=0.95,
            crop_box=(0.0, 0.0, float(width), float(height)),
            point_coords=((float(centre[1]), float(centre[0])),),
        )


def _shapes_of(path: str) -> Iterator[Annotation]:
    """Yield masks of a real dataset, all of the size of its first image with masks.

    Raises:
        ConfigError: There are none.
    """
    size, count = None, 0
    for record in open_dataset(path).records():
        for mask in record.annotations:
            size = size or mask.size
            if mask.size == size and count < NUM_SHAPES:
                count += 1
                yield mask
    if not count:
        raise ConfigError(f"{path} has no masks")


if __name__ == "__main__":
    command_line(main)
