"""Columns as they are promised, and records that come back as they went in."""

import re
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from sam_engine.dataset.schema import (
    EXTRAS,
    SCHEMA,
    extras_of,
    is_exact,
    records_to_table,
    schema_with,
    table_to_records,
)
from sam_engine.errors import ShardError
from sam_engine.structures import ImageStatus
from tests.helpers.dataset_builder import image, rectangle_mask, sample_records


def test_columns_are_those_of_version_1():
    """Names, types and which may be null; a change here is a new schema version."""
    described = {
        field.name: (str(field.type), field.nullable) for field in SCHEMA if field.name != "annotations"
    }

    assert described == {
        "image_id": ("int64", False),
        "file_name": ("string", False),
        "path_bytes": ("binary", True),
        "width": ("int32", True),
        "height": ("int32", True),
        "exif_orientation": ("int8", False),
        "sha256": ("string", True),
        "status": ("dictionary<values=string, indices=int32, ordered=0>", False),
        "error": ("string", True),
        "num_masks": ("int32", False),
    }


def test_annotations_are_a_list_of_structs():
    """The struct has SA-1B's fields; scores and coordinates are doubles, and nothing in it is null."""
    field = SCHEMA.field("annotations")
    doubles = "list<element: double not null>"
    segmentation = "struct<size: list<element: int32 not null> not null, counts: string not null>"

    assert not field.nullable
    assert not field.type.value_field.nullable
    assert {f.name: str(f.type) for f in field.type.value_type} == {
        "id": "int64",
        "segmentation": segmentation,
        "bbox": doubles,
        "area": "int64",
        "predicted_iou": "double",
        "stability_score": "double",
        "crop_box": doubles,
        "point_coords": f"list<element: {doubles} not null>",
    }
    assert not any(f.nullable for f in field.type.value_type)


def test_records_survive_the_round_trip():
    """Masks, failures, empty images and odd names all come back equal."""
    records = sample_records()
    table = records_to_table(records)
    table.validate(full=True)

    assert table_to_records(table) == records


def test_no_records_make_no_rows():
    """An empty list is an empty table of the same schema."""
    table = records_to_table([])

    assert (table.num_rows, table.schema) == (0, SCHEMA)


def test_several_points_per_mask_survive():
    """Masks may have any number of prompts, also none."""
    record = image(0, b"a", [rectangle_mask(9, 9, 1, 1, 2, 2)] * 3)
    points = [((1.5, 2.25), (3.0, 4.0)), (), ((0.5, 0.5),)]
    changed = [replace(a, point_coords=p) for a, p in zip(record.annotations, points, strict=True)]
    record = replace(record, annotations=tuple(changed))

    assert table_to_records(records_to_table([record])) == [record]


def test_ids_are_image_id_times_65536_plus_index():
    """An annotation's id says which image and which place it has."""
    masks = [rectangle_mask(9, 9, 1, 1, 2, 2)] * 2
    table = records_to_table([image(7, b"a", masks), image(8, b"b"), image(9, b"c", masks)])
    ids = [item["id"] for row in table["annotations"].to_pylist() for item in row]

    assert ids == [7 * 65536, 7 * 65536 + 1, 9 * 65536, 9 * 65536 + 1]


def test_valid_utf8_is_not_stored_twice():
    """path_bytes is null where file_name is exact."""
    table = records_to_table([image(0, "ü/日本.jpg".encode())])

    assert table["file_name"].to_pylist() == ["ü/日本.jpg"]
    assert table["path_bytes"].to_pylist() == [None]


def test_other_bytes_are_escaped_for_display_and_kept():
    """A name that is not UTF-8 is readable in file_name and exact in path_bytes."""
    table = records_to_table([image(0, b"bad\xff.jpg")])

    assert table["file_name"].to_pylist() == [r"bad\xff.jpg"]
    assert table["path_bytes"].to_pylist() == [b"bad\xff.jpg"]


def test_a_name_that_looks_escaped_is_itself():
    """A file whose real name holds a backslash is not mistaken for an escaped one."""
    record = image(0, rb"bad\xff.jpg")

    assert is_exact(record.path)
    assert table_to_records(records_to_table([record]))[0].path == rb"bad\xff.jpg"


def test_an_error_is_one_line_of_utf8():
    """Line breaks and undecodable characters in an error do not reach the dataset."""
    record = replace(image(0, b"a"), status=ImageStatus.CORRUPT, error="line 1\nline 2 \udcff")
    table = records_to_table([record])

    assert table["error"].to_pylist() == [r"line 1 line 2 \udcff"]


def test_more_masks_than_ids_are_refused():
    """65,536 masks fit an image's range of ids; one more is an error that names the image."""
    record = image(3, b"busy.jpg", [rectangle_mask(9, 9, 1, 1, 2, 2)])
    full = replace(record, annotations=record.annotations * 65536)
    over = replace(record, annotations=record.annotations * 65537)

    assert records_to_table([full])["num_masks"].to_pylist() == [65536]
    with pytest.raises(ShardError, match=r"image 3 \(busy.jpg\) has 65537 masks"):
        records_to_table([over])


def test_an_unknown_status_is_refused_on_reading():
    """A row whose status we do not know is not guessed at."""
    table = records_to_table([image(0, b"a")])
    column = table.schema.get_field_index("status")
    strange = pa.array(["splendid"]).dictionary_encode()
    table = table.set_column(column, "status", strange)

    with pytest.raises(ShardError, match="splendid"):
        table_to_records(table)


def test_fifty_thousand_masks_take_well_under_a_second():
    """Columns are built whole: 500 images of 100 masks measured 0.3 s on a slow core; 2 s allow for load."""
    mask = rectangle_mask(60, 80, 5, 5, 20, 20)
    record = image(0, b"a.jpg", [mask], size=(60, 80))
    records = [replace(record, image_id=i, annotations=record.annotations * 100) for i in range(500)]
    start = time.process_time()
    records_to_table(records)

    assert time.process_time() - start < 2


def test_the_document_names_every_column():
    """docs/dataset_format.md has a line for every column and every field of an annotation."""
    text = Path(__file__).parents[2].joinpath("docs/dataset_format.md").read_text()
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    documented = set(re.findall(r"`([a-z0-9_.]+)`", " ".join(cells)))
    fields = {f"annotations.{field.name}" for field in SCHEMA.field("annotations").type.value_type}
    fields |= {"annotations.segmentation.size", "annotations.segmentation.counts"}
    wanted = (set(SCHEMA.names) | fields | set(EXTRAS)) - {"annotations.segmentation"}

    assert wanted <= documented


def test_optional_columns_come_back():
    """Every optional column and field, alone and all together, in the order of the format."""
    [mask] = image(0, b"a", [rectangle_mask(24, 32, 1, 2, 3, 4)]).annotations
    record = replace(
        image(0, b"a"),
        status=ImageStatus.OK,
        annotations=(replace(mask, label="cup", parent_id=9), mask),
        licence="CC0",
        attribution="A. N. Author",
        source_url="https://example.org/1",
        source_key="k1",
        frame_time_s=1.5,
        image=b"\xff\xd8",
        parent_dataset="f" * 64,
        parent_image_id=7,
    )
    table = records_to_table([record], EXTRAS[::-1])

    assert table_to_records(table) == [record]
    assert extras_of(table.schema) == EXTRAS
    for name in EXTRAS:
        assert extras_of(records_to_table([record], [name]).schema) == (name,)


def test_without_optional_columns_rows_are_as_ever():
    """What a record knows besides is not written unless the dataset has the column."""
    table = records_to_table([replace(image(0, b"a"), licence="CC0")])

    assert table.schema.equals(SCHEMA)
    assert table_to_records(table)[0].licence is None


def test_other_columns_are_refused():
    """One more, one in another order, one of another type."""
    licence, key = pa.field("licence", pa.string()), pa.field("source_key", pa.string())
    others = [
        SCHEMA.append(pa.field("colour", pa.string())),
        SCHEMA.append(key).append(licence),
        SCHEMA.append(pa.field("licence", pa.int32())),
        SCHEMA.remove(0),
        pa.schema([pa.field("annotations", pa.string())]),
        pa.schema([]),
    ]

    for schema in others:
        with pytest.raises(ValueError, match="does not have the columns"):
            extras_of(schema)
    with pytest.raises(ValueError, match="no optional column 'colour'"):
        schema_with(["colour"])
