"""Parquet and run lengths of strangers: bombs are refused in 1 GB, and pycocotools sees nothing unsound."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

from sam_engine.dataset.compare import match_masks
from sam_engine.dataset.previews import draw_masks
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.schema import SCHEMA, records_to_table
from sam_engine.dataset.seal import BLANK, FILE_KEY, FOOTER_KEY, seal
from sam_engine.dataset.shards import shard_name
from sam_engine.errors import RleError, SamEngineError
from sam_engine.formats.export import export_dataset
from sam_engine.ops.rle import decode_counts
from tests.helpers.dataset_builder import annotation, image, rectangle_mask, write_dataset

BYTES = 2**30
NAIVE = "import sys, pyarrow.parquet as pq; pq.read_table(sys.argv[1])"
LIST = """
import sys
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import sorted_files
sorted_files(open_input(sys.argv[1]))
"""
READ = """
import sys
from sam_engine.config import DecodeConfig
from sam_engine.inputs.open import open_input
from sam_engine.dataset.manifest import build_manifest
source = open_input(sys.argv[1])
for entry in build_manifest(source.iter_files()).entries(0, 2):
    source.read(entry, DecodeConfig())
"""
MANIFEST = """
import sys
from sam_engine.dataset.manifest import Manifest
Manifest.from_bytes(open(sys.argv[1], "rb").read())
"""


def in_a_gigabyte(code: str, path: Path) -> str:
    """Run Python with at most 1 GB of data; return the last line of its complaint, empty if it was fine."""
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES)),
    )
    return result.stderr.strip().rpartition("\n")[2] if result.returncode else ""


def write_bomb(path: Path, column: str, value: bytes | str, rows: int, **others: object) -> Path:
    """Write a small file in which every row refers to one long value."""
    indices = pa.array(np.zeros(rows, np.int32))
    table = pa.table({column: pa.DictionaryArray.from_arrays(indices, pa.array([value])), **others})
    writer = pq.ParquetWriter(path, table.schema, compression="zstd", store_schema=False)
    writer.write_table(table, row_group_size=rows)
    writer.close()
    assert path.stat().st_size < 100_000
    return path


def test_bomb_of_image_bytes_stays_small(tmp_path):
    """100,000 rows of one value of 100 kB kill a naive reader; here the rows are read one by one."""
    path = write_bomb(tmp_path / "in.parquet", "image", b"x" * 100_000, 100_000)

    assert in_a_gigabyte(NAIVE, path) != ""
    assert in_a_gigabyte(READ, path) == ""


def test_bomb_of_paths_is_refused(tmp_path):
    """A path that no system opens is refused before it is repeated."""
    path = write_bomb(tmp_path / "in.parquet", "path", "x" * 100_000, 100_000)

    assert in_a_gigabyte(NAIVE, path) != ""
    assert "has a path of 100000 bytes; at most 4096 are read" in in_a_gigabyte(LIST, path)


def test_bomb_of_rows_is_refused(tmp_path):
    """More rows than any row group of images has are refused by the footer."""
    path = write_bomb(tmp_path / "in.parquet", "image", b"", 2**20 + 1)

    assert "has 1048577 rows in a row group; at most 1048576 are read" in in_a_gigabyte(LIST, path)


def test_bomb_in_a_manifest_is_refused(tmp_path):
    """The manifest of a stranger's dataset is bounded by its own size."""
    rows = 100_000
    path = write_bomb(tmp_path / "m.parquet", "path_bytes", b"x" * 100_000, rows)
    bare = pq.read_table(path, read_dictionary=["path_bytes"])
    table = pa.table(
        {"image_id": pa.array(np.zeros(rows, np.int64)), "path_bytes": bare["path_bytes"].chunk(0)}
    )
    table = table.append_column("size", table["image_id"]).append_column("mtime_ns", table["image_id"])
    pq.write_table(table, path, compression="zstd", store_schema=False)

    assert path.stat().st_size < 100_000
    assert in_a_gigabyte(NAIVE, path) != ""
    assert "the manifest is unreadable: its paths have 10000000000 bytes" in in_a_gigabyte(MANIFEST, path)


HOSTILE_COUNTS = ["", "o" * 100, "0ooooo7", "PPPP", "1", "\x7f\x80", "00", "l0" * 50, "5\n"]


def test_pycocotools_dies_of_what_we_refuse():
    """The naive way: an encoding of no size ends the process that asks for its box."""
    code = "from pycocotools import mask; mask.toBbox({'size': [0, 0], 'counts': b'11'})"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode < 0


@pytest.fixture
def no_pycocotools(monkeypatch):
    """pycocotools, but whoever calls it fails the test."""

    def called(*_arguments):
        raise AssertionError("pycocotools was asked")

    for name in ("decode", "area", "toBbox", "iou", "merge", "encode"):
        monkeypatch.setattr(coco, name, called)


@pytest.mark.usefixtures("no_pycocotools")
@pytest.mark.parametrize("counts", HOSTILE_COUNTS)
def test_hostile_run_lengths_reach_nobody(tmp_path, counts):
    """Readers, exporters, comparison and previews refuse the mask, and pycocotools never sees it."""
    sound = image(0, b"a.jpg", [rectangle_mask(24, 32, 2, 3, 10, 6)])
    store = write_dataset(tmp_path / "in", [sound])
    metadata = pq.ParquetFile(pa.BufferReader(store.read(shard_name(0)))).metadata.metadata
    [row] = records_to_table([sound]).to_pylist()
    row["annotations"][0]["segmentation"]["counts"] = counts
    plain = SCHEMA.set(7, pa.field("status", pa.string(), nullable=False))
    table = pa.Table.from_pylist([row], schema=plain)
    table = table.set_column(7, SCHEMA.field("status"), table["status"].dictionary_encode())
    footer = {key: value for key, value in metadata.items() if key != b"ARROW:schema"}
    footer |= {FILE_KEY: BLANK, FOOTER_KEY: BLANK}  # whoever writes the file can seal it
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(footer), sink)
    store.replace(shard_name(0), seal(sink.getvalue().to_pybytes()))
    dataset = open_dataset(tmp_path / "in")
    [record] = dataset.records()
    asked = (
        lambda: list(dataset.checked_records()),
        lambda: export_dataset(dataset, tmp_path / "coco.json", to="coco"),
        lambda: export_dataset(dataset, tmp_path / "sa1b", to="sa1b"),
        lambda: match_masks(record.annotations, [annotation(rectangle_mask(24, 32, 0, 0, 5, 5))]),
        lambda: draw_masks(np.zeros((24, 32, 3), np.uint8), record),
    )
    for ask in asked:
        with pytest.raises(SamEngineError):
            ask()

    assert not (tmp_path / "coco.json").exists()


@pytest.mark.usefixtures("no_pycocotools")
@pytest.mark.parametrize(
    "size", [(0, 0), (-1, 5), (65_536, 65_536), (2**31, 2**31), (5,), (1.5, 2), "55", None]
)
def test_hostile_sizes_are_refused(size):
    """Sizes that wrap round 32 bits, are negative or no sizes at all."""
    with pytest.raises((RleError, TypeError)):
        decode_counts("o1", size)


def test_run_info_of_strangers_is_only_data(tmp_path):
    """What is no fingerprint is no dataset, however deep or odd the JSON is."""
    for text in ("[" * 100_000, "null", '{"fingerprint": {}}', json.dumps({"fingerprint": 5}), "\xff"):
        (tmp_path / "_meta").mkdir(exist_ok=True)
        (tmp_path / "_meta" / "run.json").write_text(text)
        with pytest.raises(SamEngineError):
            open_dataset(tmp_path)
