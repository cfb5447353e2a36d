"""Hugging Face's layout: Parquet of the split ``train`` with the images inside, and a dataset card.

A dataset of ours loads there as it is, without its images. Here ``image`` is the Hub's own type of column, so
that its viewer shows them and `datasets` decodes them. The other columns are those of the dataset.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sam_engine.dataset.card_parts import front_matter, licences_of, terms_text
from sam_engine.dataset.hidden import hidden_in
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.schema import MANIFEST, display_path, schema_with
from sam_engine.files import new_file, write_atomically
from sam_engine.formats.each_image import ImagesToWrite, ImageToWrite, copy_name
from sam_engine.structures import Annotation, ImageRecord

_COLUMNS = ("image_id", "file_name", "width", "height", "num_masks", "annotations")
_IMAGE = pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]))
_FEATURES = {"info": {"features": {"image": {"_type": "Image"}}}}
_GROUP_BYTES = 2**26
"""Of the images of a row group, which readers take as a whole."""
_GROUP_ROWS = 100


def write_huggingface(images: ImagesToWrite, folder: Path) -> None:
    """Write ``data/train-00000-of-<shards>.parquet``, ... and ``README.md``.

    Images that cannot be had are null; those that failed have no row.
    """
    schema = _schema(images)
    shards = sorted(images.dataset.shards)
    (folder / "data").mkdir()
    for number, index in enumerate(shards):
        path = folder / "data" / f"train-{number:05d}-of-{len(shards):05d}.parquet"
        with new_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for rows in _groups(images.images(shards=[index])):
                writer.write_table(pa.Table.from_pylist([_row(*row) for row in rows], schema=schema))
    write_atomically(folder / "README.md", _card(images))


def _schema(images: ImagesToWrite) -> pa.Schema:
    """Return the columns, of the optional ones those of the dataset, and labels where people said some."""
    extras = images.dataset.extras
    whole = schema_with([*extras, *(["annotations.label"] if images.has_labels else [])])
    origin = [name for name in extras if name in whole.names and name != "image"]
    fields = [whole.field(name) for name in (*_COLUMNS, *origin)]
    return pa.schema([_IMAGE, *fields], metadata={"huggingface": json.dumps(_FEATURES)})


def _groups(images: Iterator[ImageToWrite]) -> Iterator[list[ImageToWrite]]:
    """Yield images in groups for a row group each."""
    group: list[ImageToWrite] = []
    num_bytes = 0
    for image in images:
        group.append(image)
        num_bytes += len(image[2] or b"")
        if len(group) == _GROUP_ROWS or num_bytes >= _GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def _row(record: ImageRecord, masks: Sequence[Annotation], jpeg: bytes | None) -> dict[str, Any]:
    """Return one image; what the schema does not have is left out when it is written."""
    copy = None if jpeg is None else {"bytes": jpeg, "path": copy_name(record.image_id)}
    columns = ("image_id", "width", "height", "licence", "attribution", "source_url", "source_key")
    more = ("frame_time_s", "parent_dataset", "parent_image_id")
    return {
        "image": copy,
        "file_name": display_path(record.path),
        "num_masks": len(masks),
        "annotations": [
            {
                "id": mask.id,
                "segmentation": {"size": mask.size, "counts": mask.counts},
                "bbox": mask.bbox,
                "area": mask.area,
                "predicted_iou": mask.predicted_iou,
                "stability_score": mask.stability_score,
                "crop_box": mask.crop_box,
                "point_coords": mask.point_coords,
                "label": mask.label,
                "parent_id": mask.parent_id,
            }
            for mask in masks
        ],
    } | {name: getattr(record, name) for name in (*columns, *more)}


def _card(images: ImagesToWrite) -> bytes:
    """Return the dataset card of what was written."""
    dataset, summary = images.dataset, images.summary()
    originals = images.originals
    blurred = originals is not None and bool(
        originals.hide or (originals.stored and hidden_in(dataset.store))
    )
    manifest = Manifest.from_bytes(dataset.store.read(MANIFEST))
    licences = licences_of(manifest)
    random = "\n> **Made with random weights.** These masks test programs and describe nothing.\n"
    text = f"""{front_matter(summary.num_images, licences, "data/train-*.parquet")}

# Masks of {summary.num_images:,} images
{random if dataset.run_info.get("random_weights") else ""}
{summary.num_images:,} images, {summary.num_copies:,} of them inside, and {summary.num_masks:,} masks that a
Segment Anything model made. The masks have no classes, may overlap, and cover parts as well as whole
things; people corrected those of {summary.num_corrected:,} images.

```python
import datasets, pycocotools.mask

rows = datasets.load_dataset("parquet", data_files="data/*.parquet", split="train")
mask = pycocotools.mask.decode(rows[0]["annotations"][0]["segmentation"])  # (H, W), 0 or 1
```

Images are upright JPEG of quality 95. `bbox` is XYWH with a width of `x_max - x_min`, as in SA-1B.
Fingerprint of the dataset that this was exported from: `{dataset.fingerprint}`.

## Licence and privacy

{terms_text(licences, manifest, blurred=blurred)}
"""
    return text.encode(errors="backslashreplace")
