"""Images in a Parquet file are listed and read like files."""

import os
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.config import DecodeConfig
from sam_engine.errors import InputError
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import ListingRules, sorted_files
from sam_engine.structures import ImageStatus
from tests.helpers.inputs import entries, read_status, refusal

DEFAULT = DecodeConfig()


@pytest.mark.parametrize("column", ["struct", "binary"])
def test_parquet_bytes_are_images(tmp_path, column):
    """Rows of a bytes column, plain or in Hugging Face's struct, are read across row groups."""
    images = [b"image %d" % row for row in range(5)]
    values = [{"bytes": image, "path": "same.jpg"} for image in images] if column == "struct" else images
    pq.write_table(pa.table({"label": range(5), "image": values}), tmp_path / "x.parquet", row_group_size=2)
    source = pickle.loads(pickle.dumps(open_input(str(tmp_path / "x.parquet"))))

    assert [entry.path for entry in entries(source)] == [b"x.parquet#%09d" % row for row in range(5)]
    assert [source.read(entry, DEFAULT) for entry in entries(source)] == images


def test_parquet_null_is_a_row(tmp_path):
    """A row without bytes fails alone."""
    pq.write_table(pa.table({"image": pa.array([b"one", None])}), tmp_path / "x.parquet")
    source = open_input(str(tmp_path / "x.parquet"))

    assert read_status(source, entries(source)[1]) is ImageStatus.UNREADABLE


def test_parquet_paths_are_relative_to_it(tmp_path):
    """A column of paths names files, also missing ones."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jpg").write_bytes(b"image")
    pq.write_table(pa.table({"file_name": ["d/a.jpg", "d/b.jpg"]}), tmp_path / "x.parquet")
    source = open_input(str(tmp_path / "x.parquet"))
    first, second = entries(source)

    assert source.read(first, DEFAULT) == b"image"
    assert read_status(source, second) is ImageStatus.VANISHED


def test_parquet_without_images_is_refused(tmp_path):
    """The message names the columns found and those looked for."""
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")

    assert "has columns x (int64); images are looked for" in refusal(tmp_path / "x.parquet")


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view", "dictionary"])
def test_bytes_of_any_arrow_type_are_images(tmp_path, kind):
    """pandas, polars and arrow write the same bytes under several types."""
    plain = pa.array([b"one", b"two", b"one"])
    values = plain.dictionary_encode() if kind == "dictionary" else plain.cast(getattr(pa, kind)())
    pq.write_table(pa.table({"image": values}), tmp_path / "x.parquet", row_group_size=2)
    source = open_input(str(tmp_path / "x.parquet"))

    assert [source.read(entry, DEFAULT) for entry in entries(source)] == [b"one", b"two", b"one"]


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_paths_of_any_arrow_type_are_files(tmp_path, kind):
    """Pandas writes large_string by now, polars string_view."""
    plain = pa.array(["ä.jpg", "b.jpg"])
    values = plain.dictionary_encode() if kind == "dictionary" else plain.cast(getattr(pa, kind)())
    pq.write_table(pa.table({"path": values}), tmp_path / "x.parquet")

    assert [file.path for file in sorted_files(open_input(str(tmp_path / "x.parquet")))] == [
        b"b.jpg",
        "ä.jpg".encode(),
    ]


@pytest.mark.parametrize("kind", ["large_binary", "binary_view"])
def test_structs_of_any_arrow_type_are_images(tmp_path, kind):
    """Hugging Face's struct, rewritten by other programs."""
    fields = [pa.field("bytes", getattr(pa, kind)()), pa.field("path", pa.string())]
    values = pa.StructArray.from_arrays(
        [pa.array([b"one"]).cast(fields[0].type), pa.array(["a.jpg"])], fields=fields
    )
    pq.write_table(pa.table({"image": values}), tmp_path / "x.parquet")
    source = open_input(str(tmp_path / "x.parquet"))

    assert [source.read(entry, DEFAULT) for entry in entries(source)] == [b"one"]


def test_a_path_stands_in_for_null_bytes(tmp_path):
    """Hugging Face's struct names a file where it holds none; a row with neither fails alone."""
    (tmp_path / "a.jpg").write_bytes(b"file")
    rows = [{"bytes": b"row", "path": "x.jpg"}, {"bytes": None, "path": "a.jpg"}]
    rows += [
        {"bytes": None, "path": "gone.jpg"},
        {"bytes": None, "path": "a\0.jpg"},
        {"bytes": None, "path": None},
    ]
    pq.write_table(pa.table({"image": rows}), tmp_path / "x.parquet")
    source = open_input(str(tmp_path / "x.parquet"))
    row, file, gone, odd, nothing = entries(source)

    assert source.read(row, DEFAULT) == b"row"
    assert source.read(file, DEFAULT) == b"file"
    assert read_status(source, gone) is ImageStatus.VANISHED
    assert read_status(source, odd) is read_status(source, nothing) is ImageStatus.UNREADABLE


@pytest.mark.parametrize("path", ["a\0b.jpg", "https://host/a.jpg"])
def test_what_is_no_path_in_a_column_is_named(tmp_path, path):
    """One line, no traceback."""
    pq.write_table(pa.table({"path": ["a.jpg", path]}), tmp_path / "x.parquet")

    assert "is not a path" in refusal(tmp_path / "x.parquet")


def test_the_column_can_be_named(tmp_path):
    """Any column of bytes or of text; one that is not there, or holds something else, is refused."""
    table = pa.table({"image": [b"small"], "photo": [b"large"], "size": [3]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_input(str(tmp_path / "x.parquet"), ListingRules(column="photo"))

    assert source.read(*entries(source), DEFAULT) == b"large"
    with pytest.raises(InputError, match="has no column 'picture'"):
        open_input(str(tmp_path / "x.parquet"), ListingRules(column="picture"))
    with pytest.raises(InputError, match="column 'size' holds int64"):
        open_input(str(tmp_path / "x.parquet"), ListingRules(column="size"))


def test_a_new_time_alone_is_no_change(tmp_path):
    """A `touch` or a copy leaves every row; rows that a rewritten file does not have are gone."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [b"one", b"two"]}), path)
    source = open_input(str(path))
    first, second = entries(source)
    os.utime(path, ns=(1, 1))
    read = [source.read(first, DEFAULT), source.read(second, DEFAULT)]
    pq.write_table(pa.table({"image": [b"three"]}), path)

    assert read == [b"one", b"two"]
    assert source.read(first, DEFAULT) == b"three"
    assert read_status(source, second) is ImageStatus.VANISHED
