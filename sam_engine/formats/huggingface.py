"""Hugging Face's layout: Parquet of the split ``train`` with the images inside, and a dataset card.

A dataset of ours loads there as it is, without its images. Here ``image`` is the Hub's own type of column, so
that its viewer shows them and `datasets` decodes them. The other columns are those of the dataset.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sam_engine.dataset.card_parts import front_matter, licences_of, terms_text
from sam_engine.dataset.corrections import Correction
from sam_engine.dataset.hidden import hidden_in
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.originals import Originals
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import MANIFEST, display_path, schema_with
from sam_engine.files import new_file, refuse_used, write_atomically, writing_to
from sam_engine.formats.each_image import ImagesToWrite, ImageToWrite
from sam_engine.formats.source import ExportSummary
from sam_engine.structures import Annotation, ImageRecord

_COLUMNS = ("image_id", "file_name", "width", "height", "num_masks", "annotations")
_IMAGE = pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]))
_FEATURES = {"info": {"features": {"image": {"_type": "Image"}}}}
_GROUP_BYTES = 2**26
"""Of the images of a row group, which readers take as a whole."""
_GROUP_ROWS = 100


def export_huggingface(
    dataset: Dataset,
    output: Path,
    *,
    originals: Originals | None = None,
    corrections: Mapping[int, Sequence[Correction]] | None = None,
) -> ExportSummary:
    """Write ``data/train-00000-of-<shards>.parquet``, ... and ``README.md``.

    Images that cannot be had are null; those that failed have no row.

    Args:
        dataset: What to export. One row group is in memory at a time.
        output: Folder for the files; it must be new or empty.
        originals: Where to take the images from; None writes annotations only.
        corrections: By image id, applied to what is written.

    Raises:
        ConfigError: ``output`` is in use.
        ShardError: The dataset is damaged.
        StorageError: The output cannot be written.
    """
    refuse_used(output)
    each = ImagesToWrite(dataset, originals=originals, corrections=corrections)
    schema = _schema(dataset.extras)
    shards = sorted(dataset.shards)
    with writing_to(output):
        (output / "data").mkdir(parents=True, exist_ok=True)
        for number, index in enumerate(shards):
            path = output / "data" / f"train-{number:05d}-of-{len(shards):05d}.parquet"
            with new_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for rows in _groups(each.images(shards=[index])):
                    writer.write_table(pa.Table.from_pylist([_row(*row) for row in rows], schema=schema))
        is_hidden = originals is not None and (
            originals.hide or (originals.stored and hidden_in(dataset.store))
        )
        card = _card(output.name, dataset, each.summary(), blurred=bool(is_hidden))
        write_atomically(output / "README.md", card)
    return each.summary()


def _schema(extras: Sequence[str]) -> pa.Schema:
    """Return the columns, of the optional ones those that the dataset has."""
    whole = schema_with(extras)
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


def _row(record: ImageRecord, masks: Sequence[tuple[int, Annotation]], jpeg: bytes | None) -> dict[str, Any]:
    """Return one image; what the schema does not have is left out when it is written."""
    copy = None if jpeg is None else {"bytes": jpeg, "path": f"{record.image_id:012d}.jpg"}
    columns = ("image_id", "width", "height", "licence", "attribution", "source_url", "source_key")
    more = ("frame_time_s", "parent_dataset", "parent_image_id")
    return {
        "image": copy,
        "file_name": display_path(record.path),
        "num_masks": len(masks),
        "annotations": [
            {
                "id": identifier,
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
            for identifier, mask in masks
        ],
    } | {name: getattr(record, name) for name in (*columns, *more)}


def _card(name: str, dataset: Dataset, summary: ExportSummary, *, blurred: bool) -> bytes:
    """Return the dataset card."""
    manifest = Manifest.from_bytes(dataset.store.read(MANIFEST))
    licences = licences_of(manifest)
    random = "\n> **Made with random weights.** These masks test programs and describe nothing.\n"
    text = f"""{front_matter(summary.num_images, licences, "data/train-*.parquet")}

# {name}
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
