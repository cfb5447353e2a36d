"""Images in a Parquet file are listed and read like files."""

import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.config import DecodeConfig
from sam_engine.inputs.open import open_input
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

    assert "has columns x; images are looked for" in refusal(tmp_path / "x.parquet")
