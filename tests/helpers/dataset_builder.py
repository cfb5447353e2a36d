"""Small datasets made with our own writer, for tests that read them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sam_engine.dataset.manifest import build_manifest, cut_shards
from sam_engine.dataset.published import committed_shards
from sam_engine.dataset.run_info import RunInfo
from sam_engine.dataset.schema import MANIFEST, RUN_INFO, SUCCESS
from sam_engine.dataset.seal import BLANK, FILE_KEY, FOOTER_KEY, seal
from sam_engine.dataset.shards import publish_shard, shard_sha256, success_json
from sam_engine.inputs.source import InputFile
from sam_engine.ops.rle import area_of, bbox_of, mask_to_runs, runs_to_counts
from sam_engine.storage.local import LocalStore
from sam_engine.structures import Annotation, ImageRecord, ImageStatus

FINGERPRINT = "f" * 64
"""For shards that belong to no dataset."""


def annotation(mask: np.ndarray, *, predicted_iou: float = 0.95, crop_box=None) -> Annotation:
    """Return the sound annotation of an (H, W) mask."""
    height, width = mask.shape
    runs = mask_to_runs(mask)
    x, y, w, h = bbox_of(runs, (height, width))
    return Annotation(
        size=(height, width),
        counts=runs_to_counts(runs),
        bbox=(float(x), float(y), float(w), float(h)),
        area=area_of(runs),
        predicted_iou=predicted_iou,
        stability_score=0.96875,
        crop_box=crop_box or (0.0, 0.0, float(width), float(height)),
        point_coords=((x + 0.5, y + 0.5),),
    )


def rectangle_mask(height: int, width: int, x: int, y: int, w: int, h: int) -> np.ndarray:
    """Return an (H, W) mask of one rectangle of w x h pixels."""
    mask = np.zeros((height, width), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def rectangle(
    x: int, y: int, w: int, h: int, *, score=0.95, stability=0.97, point=(0.5, 0.5), crop=None
) -> Annotation:
    """Return a rectangle of w x h pixels on an image of 100 x 120 (H, W), with its scores and origin."""
    found = annotation(rectangle_mask(100, 120, x, y, w, h), predicted_iou=score, crop_box=crop)
    return replace(found, stability_score=stability, point_coords=(point,))


def image(image_id: int, path: bytes, masks: Sequence[np.ndarray] = (), *, size=(24, 32)) -> ImageRecord:
    """Return the sound record of an annotated image of ``size`` (H, W)."""
    return ImageRecord(
        image_id=image_id,
        path=path,
        status=ImageStatus.OK if masks else ImageStatus.OK_EMPTY,
        height=size[0],
        width=size[1],
        sha256=f"{image_id:064x}",
        annotations=tuple(annotation(mask) for mask in masks),
    )


def failed(image_id: int, path: bytes, status: ImageStatus = ImageStatus.CORRUPT) -> ImageRecord:
    """Return the record of an image that could not be used."""
    return ImageRecord(image_id=image_id, path=path, status=status, error="it could not be used")


def sample_records() -> list[ImageRecord]:
    """Return five images: two masks, a failure, no masks, a name that is not UTF-8, a mask in a crop."""
    first, second = rectangle_mask(24, 32, 2, 3, 10, 6), rectangle_mask(24, 32, 30, 20, 2, 4)
    in_crop = annotation(rectangle_mask(24, 32, 8, 6, 3, 5), crop_box=(4.0, 2.0, 16.0, 12.0))
    with_crop = image(4, "über/ein Bild.jpg".encode(), [first])
    return [
        image(0, b"a.jpg", [first, second]),
        failed(1, b"b.png"),
        image(2, b"c.jpg"),
        image(3, b"d\xff.jpg", [second]),
        ImageRecord(
            image_id=4,
            path=with_crop.path,
            status=ImageStatus.OK,
            height=24,
            width=32,
            exif_orientation=6,
            sha256=with_crop.sha256,
            annotations=(in_crop,),
        ),
    ]


def write_dataset(
    root: Path,
    records: Sequence[ImageRecord],
    *,
    shard_size: int = 2,
    input_root: str = "photos",
    settings: Mapping[str, Any] | None = None,
    extras: Sequence[str] = (),
    files: Sequence[InputFile] | None = None,
) -> LocalStore:
    """Write a finished dataset as a run does. The records must be in order of their paths.

    ``files`` are those of the input, for who reads it by the manifest.
    """
    store = LocalStore(root)
    manifest = build_manifest(files or [InputFile(path=r.path, size=1, mtime_ns=0) for r in records])
    assert [entry.path for entry in manifest.entries(0, len(records))] == [r.path for r in records]
    info = RunInfo(
        settings={
            "schema_version": 1,
            "shard_size": shard_size,
            "manifest_sha256": manifest.sha256,
            **(settings or {}),
        },
        selection={"input": input_root},
        random_weights=False,
        num_images=len(records),
        num_shards=len(cut_shards(len(records), shard_size)),
        versions={},
    )
    store.replace(RUN_INFO, info.to_json())
    store.replace(MANIFEST, manifest.to_bytes())
    for shard in cut_shards(len(records), shard_size):
        rows = records[shard.start : shard.stop]
        publish_shard(store, rows, shard=shard, fingerprint=info.fingerprint, extras=extras)
    write_success(store)
    return store


def sealed(table: pa.Table, footer: Mapping[bytes, bytes]) -> bytes:
    """Return a file of any table and footer that carries digests of its own, as a shard of ours does."""
    blank = {key.encode(): BLANK.encode() for key in (FILE_KEY, FOOTER_KEY)}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({**footer, **blank}), sink, write_page_checksum=True)
    return seal(sink.getvalue().to_pybytes())


def fingerprint_of(store: LocalStore) -> str:
    """Return the fingerprint that run.json names."""
    return json.loads(store.read(RUN_INFO))["fingerprint"]


def write_success(store: LocalStore) -> None:
    """Write _SUCCESS.json for what is there."""
    fingerprint = fingerprint_of(store)
    summaries = committed_shards(store, fingerprint)
    digests = {index: shard_sha256(store, index) for index in summaries}
    store.replace(SUCCESS, success_json(summaries, digests, fingerprint=fingerprint))
