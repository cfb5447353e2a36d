"""A dataset on disk: the names of its files, the columns of its rows, and rows to and from `ImageRecord`."""

import json
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from sam_engine.errors import ShardError
from sam_engine.structures import ANNOTATIONS_PER_IMAGE, Annotation, ImageRecord, ImageStatus

SCHEMA_VERSION = 1

ANNOTATIONS_PREFIX = "annotations/"
RUN_INFO = "_meta/run.json"
MANIFEST = "_meta/manifest.parquet"
SUCCESS = "_SUCCESS.json"

# Parquet's own name for what a list holds. Another name would not survive the round trip.
_ELEMENT = "element"


def _list_of(value_type: pa.DataType) -> pa.ListType:
    """A list type whose elements cannot be null."""
    return pa.list_(pa.field(_ELEMENT, value_type, nullable=False))


def _required(name: str, value_type: pa.DataType) -> pa.Field:
    """A field that cannot be null."""
    return pa.field(name, value_type, nullable=False)


_NUMBERS = _list_of(pa.float64())
_POINTS = _list_of(_NUMBERS)
_SIZE = _list_of(pa.int32())
_SEGMENTATION = pa.struct([_required("size", _SIZE), _required("counts", pa.string())])
ANNOTATION_TYPE = pa.struct(
    [
        _required("id", pa.int64()),
        _required("segmentation", _SEGMENTATION),
        _required("bbox", _NUMBERS),
        _required("area", pa.int64()),
        _required("predicted_iou", pa.float64()),
        _required("stability_score", pa.float64()),
        _required("crop_box", _NUMBERS),
        _required("point_coords", _POINTS),
    ]
)
SCHEMA = pa.schema(
    [
        _required("image_id", pa.int64()),
        _required("file_name", pa.string()),
        pa.field("path_bytes", pa.binary()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        _required("exif_orientation", pa.int8()),
        pa.field("sha256", pa.string()),
        _required("status", pa.dictionary(pa.int32(), pa.string())),
        pa.field("error", pa.string()),
        _required("num_masks", pa.int32()),
        _required("annotations", _list_of(ANNOTATION_TYPE)),
    ],
    metadata={"sam_engine.schema_version": str(SCHEMA_VERSION)},
)
"""One row per input image. ``docs/dataset_format.md`` explains every column."""

IMAGE = "image"
"""The column of stored images."""
_IMAGE_TYPE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
# What `datasets` looks for: it decodes the column, as the Hub's viewer does.
_IMAGE_METADATA = {"huggingface": json.dumps({"info": {"features": {IMAGE: {"_type": "Image"}}}})}
OPTIONAL_COLUMNS = (
    pa.field("licence", pa.string()),
    pa.field("attribution", pa.string()),
    pa.field("source_url", pa.string()),
    pa.field("source_key", pa.string()),
    pa.field("frame_time_s", pa.float64()),
    pa.field(IMAGE, _IMAGE_TYPE),
    pa.field("parent_dataset", pa.string()),
    pa.field("parent_image_id", pa.int64()),
)
"""What a dataset may say of its images besides, in this order behind `SCHEMA`."""
OPTIONAL_MASK_FIELDS = (pa.field("label", pa.string()), pa.field("parent_id", pa.int64()))
"""What it may say of its masks besides, in this order behind the fields of `ANNOTATION_TYPE`."""
EXTRAS = tuple(field.name for field in OPTIONAL_COLUMNS) + tuple(
    f"annotations.{field.name}" for field in OPTIONAL_MASK_FIELDS
)
"""Names of all that is optional; fields of masks as ``annotations.label``."""

ROW_GROUP_IMAGES = 100
"""Images per row group: what a reader has to decompress to show one of them."""
GROUP_IMAGE_BYTES = 2**24
"""Of stored images in a row group; a group ends with the image that goes beyond."""

SCALAR_COLUMNS = tuple(name for name in SCHEMA.names if name != "annotations")
"""Every column but the masks: a few bytes per image."""


def schema_with(extras: Collection[str] = ()) -> pa.Schema:
    """Return `SCHEMA` with some of `EXTRAS`, in the order of the format whatever theirs is."""
    unknown = sorted(set(extras) - set(EXTRAS))
    if unknown:
        raise ValueError(f"there is no optional column {unknown[0]!r}; there are {', '.join(EXTRAS)}")
    schema = SCHEMA
    masks = [field for field in OPTIONAL_MASK_FIELDS if f"annotations.{field.name}" in extras]
    if masks:
        place = schema.get_field_index("annotations")
        column = _required("annotations", _list_of(pa.struct([*ANNOTATION_TYPE, *masks])))
        schema = schema.set(place, column)
    for field in OPTIONAL_COLUMNS:
        if field.name in extras:
            schema = schema.append(field)
    return schema.with_metadata({**SCHEMA.metadata, **_IMAGE_METADATA}) if IMAGE in extras else schema


def extras_of(schema: pa.Schema) -> tuple[str, ...]:
    """Return which of `EXTRAS` a shard has.

    Raises:
        ValueError: It has other columns than those of this version.
    """
    annotations = schema.field("annotations").type if "annotations" in schema.names else pa.null()
    fields = annotations.value_type if pa.types.is_list(annotations) else pa.struct([])
    mask_names = {f"annotations.{field.name}" for field in fields} if pa.types.is_struct(fields) else set()
    extras = tuple(name for name in EXTRAS if name in schema.names or name in mask_names)
    if not schema.equals(schema_with(extras)):
        raise ValueError(f"does not have the columns of schema version {SCHEMA_VERSION}")
    return extras


def display_path(path: bytes) -> str:
    r"""Return ``path`` as text; bytes that are not UTF-8 become ``\xNN``."""
    return path.decode("utf-8", "backslashreplace")


def is_exact(path: bytes) -> bool:
    """Return whether `display_path` alone gives the path back."""
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def annotation_id(image_id: int, index: int) -> int:
    """Return the id of the ``index``-th annotation of an image, unique in its dataset."""
    return image_id * ANNOTATIONS_PER_IMAGE + index


def records_to_table(records: Sequence[ImageRecord], extras: Collection[str] = ()) -> pa.Table:
    """Return the records as rows of `SCHEMA`, in their order.

    Args:
        records: One a row.
        extras: Which of `EXTRAS` the rows have; what records say of others is left out.

    Raises:
        ShardError: An image has more masks than there are annotation ids for it.
    """
    for record in records:
        if len(record.annotations) > ANNOTATIONS_PER_IMAGE:
            raise ShardError(
                f"image {record.image_id} ({display_path(record.path)}) has {len(record.annotations)} masks; "
                f"ids leave room for {ANNOTATIONS_PER_IMAGE} per image"
            )
    image_ids = np.array([record.image_id for record in records], np.int64)
    num_masks = np.array([len(record.annotations) for record in records], np.int32)
    # What str.encode cannot write (lone surrogates of undecodable names) must not cost the shard.
    errors = [None if record.error is None else _one_line(record.error) for record in records]
    statuses = pa.array([str(record.status) for record in records], pa.string())
    columns = [
        pa.array(image_ids),
        pa.array([display_path(record.path) for record in records], pa.string()),
        pa.array([None if is_exact(record.path) else record.path for record in records], pa.binary()),
        pa.array([record.width for record in records], pa.int32()),
        pa.array([record.height for record in records], pa.int32()),
        pa.array([record.exif_orientation for record in records], pa.int8()),
        pa.array([record.sha256 for record in records], pa.string()),
        statuses.dictionary_encode(),
        pa.array(errors, pa.string()),
        pa.array(num_masks),
        _annotation_lists(records, image_ids, num_masks, extras),
    ]
    columns += [
        pa.array([_cell(record, field.name) for record in records], field.type)
        for field in OPTIONAL_COLUMNS
        if field.name in extras
    ]
    return pa.Table.from_arrays(columns, schema=schema_with(extras))


def row_groups(records: Sequence[ImageRecord]) -> Iterator[list[ImageRecord]]:
    """Yield the records in runs, a row group each; those without stored images by their number alone."""
    group: list[ImageRecord] = []
    num_bytes = 0
    for record in records:
        group.append(record)
        num_bytes += len(record.image or b"")
        if len(group) == ROW_GROUP_IMAGES or num_bytes > GROUP_IMAGE_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def table_to_records(table: pa.Table) -> list[ImageRecord]:
    """Return the rows of a table of `SCHEMA`, with any `EXTRAS`, as records: `records_to_table` backwards.

    Raises:
        ShardError: A status is unknown, or a box or size has the wrong length.
    """
    try:
        extras = [field.name for field in OPTIONAL_COLUMNS if field.name in table.column_names]
        return [_record(row, extras) for row in table.select([*SCHEMA.names, *extras]).to_pylist()]
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"rows do not follow schema version {SCHEMA_VERSION}: {error}") from error


def row_path(row: dict[str, Any]) -> bytes:
    """Return the path of a row as the file system spells it."""
    path = row["path_bytes"]
    return bytes(path) if path is not None else str(row["file_name"]).encode()


def _one_line(text: str) -> str:
    """Return ``text`` without line breaks and without characters that UTF-8 cannot hold."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


def _annotation_lists(
    records: Sequence[ImageRecord], image_ids: np.ndarray, num_masks: np.ndarray, extras: Collection[str]
) -> pa.ListArray:
    """Return the ``annotations`` column: one flat array per leaf, cut by offsets."""
    annotations = [annotation for record in records for annotation in record.annotations]
    offsets = np.concatenate([[0], np.cumsum(num_masks)]).astype(np.int32)
    index = np.arange(len(annotations)) - np.repeat(offsets[:-1], num_masks)
    ids = np.repeat(image_ids, num_masks) * ANNOTATIONS_PER_IMAGE + index
    num_points = np.array([len(annotation.point_coords) for annotation in annotations], np.int32)
    point_offsets = np.concatenate([[0], np.cumsum(num_points)]).astype(np.int32)
    all_points = [point for annotation in annotations for point in annotation.point_coords]
    points = _fixed_lists(all_points, 2, _NUMBERS)
    counts = pa.array([annotation.counts for annotation in annotations], pa.string())
    sizes = _fixed_lists([annotation.size for annotation in annotations], 2, _SIZE)
    leaves = [
        pa.array(ids, pa.int64()),
        pa.StructArray.from_arrays([sizes, counts], fields=list(_SEGMENTATION)),
        _fixed_lists([annotation.bbox for annotation in annotations], 4, _NUMBERS),
        pa.array([annotation.area for annotation in annotations], pa.int64()),
        pa.array([annotation.predicted_iou for annotation in annotations], pa.float64()),
        pa.array([annotation.stability_score for annotation in annotations], pa.float64()),
        _fixed_lists([annotation.crop_box for annotation in annotations], 4, _NUMBERS),
        pa.ListArray.from_arrays(pa.array(point_offsets), points, type=_POINTS),
    ]
    list_type = schema_with(extras).field("annotations").type
    leaves += [
        pa.array([getattr(mask, field.name) for mask in annotations], field.type)
        for field in OPTIONAL_MASK_FIELDS
        if f"annotations.{field.name}" in extras
    ]
    values = pa.StructArray.from_arrays(leaves, fields=list(list_type.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=list_type)


def _fixed_lists(rows: Sequence[Sequence[float]], length: int, list_type: pa.ListType) -> pa.ListArray:
    """Return rows that all hold ``length`` numbers as a list array."""
    values = np.fromiter(chain.from_iterable(rows), list_type.value_type.to_pandas_dtype())
    assert len(values) == length * len(rows)
    offsets = np.arange(0, len(values) + 1, length, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=list_type)


def _record(row: dict[str, Any], extras: Sequence[str]) -> ImageRecord:
    """Return one row as a record."""
    return ImageRecord(
        image_id=row["image_id"],
        path=row_path(row),
        status=ImageStatus(row["status"]),
        width=row["width"],
        height=row["height"],
        exif_orientation=row["exif_orientation"],
        sha256=row["sha256"],
        error=row["error"],
        annotations=tuple(_annotation(item) for item in row["annotations"]),
        **{name: _value(row[name]) for name in extras},
    )


def _cell(record: ImageRecord, name: str) -> Any:
    """Return what a row has in an optional column; a stored image is called by its id."""
    if name != IMAGE or record.image is None:
        return getattr(record, name)
    return {"bytes": record.image, "path": f"{record.image_id:012d}.jpg"}


def _value(cell: Any) -> Any:
    """Return what a record has of an optional column: `_cell` backwards."""
    return cell["bytes"] if isinstance(cell, dict) else cell


def _annotation(item: dict[str, Any]) -> Annotation:
    """Return one element of ``annotations`` as an annotation."""
    height, width = item["segmentation"]["size"]
    box_x, box_y, box_w, box_h = item["bbox"]
    crop_x, crop_y, crop_w, crop_h = item["crop_box"]
    return Annotation(
        size=(height, width),
        counts=item["segmentation"]["counts"],
        bbox=(box_x, box_y, box_w, box_h),
        area=item["area"],
        predicted_iou=item["predicted_iou"],
        stability_score=item["stability_score"],
        crop_box=(crop_x, crop_y, crop_w, crop_h),
        point_coords=tuple((x, y) for x, y in item["point_coords"]),
        label=item.get("label"),
        parent_id=item.get("parent_id"),
        id=item.get("id"),
    )
