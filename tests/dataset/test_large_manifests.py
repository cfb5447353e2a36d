"""A manifest is read in pieces: no column of it is held twice, and none is unfolded that is a bomb."""

import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.dataset import manifest as manifest_module
from sam_engine.dataset.manifest import Manifest, build_manifest
from sam_engine.errors import ShardError
from sam_engine.inputs.source import InputFile
from sam_engine.structures import Origin

PEAK = """
import os, sys
import pyarrow as pa
from sam_engine.dataset.manifest import Manifest
data = sys.stdin.buffer.read()
pool = pa.proxy_memory_pool(pa.default_memory_pool())
pa.set_memory_pool(pool)
manifest = Manifest.from_bytes(data)
print(pool.max_memory() / manifest.table.nbytes, flush=True)
os._exit(0)  # Arrow does not survive the end of a pool that is in use
"""


def manifest_of(count: int, **more) -> Manifest:
    return build_manifest(
        InputFile(
            path=b"folder_%06d/image_%09d.jpg" % (number // 100, number), size=number, mtime_ns=7, **more
        )
        for number in range(count)
    )


def in_pieces(manifest: Manifest, rows: int) -> bytes:
    """Return what `Manifest.to_bytes` writes, in row groups of so many rows."""
    sink = io.BytesIO()
    table = pq.read_table(pa.BufferReader(manifest.to_bytes()))
    pq.write_table(table, sink, row_group_size=rows)
    return sink.getvalue()


@pytest.mark.parametrize("more", [{}, {"origin": Origin(licence="CC0", frame_time_s=0.5)}])
def test_row_groups_are_joined(more):
    """Also those of what is known of origins."""
    manifest = manifest_of(1000, **more)

    assert Manifest.from_bytes(in_pieces(manifest, 300)).table.equals(manifest.table)


def test_a_bomb_in_pieces_is_weighed_as_a_whole(monkeypatch):
    """Each of ten row groups would pass."""
    monkeypatch.setattr(manifest_module, "_MIN_TEXT_BYTES", 2**20)
    monkeypatch.setattr(manifest_module, "MAX_TEXT_RATIO", 1)
    data = in_pieces(manifest_of(10_000, origin=Origin(licence="x" * 512)), 1000)

    with pytest.raises(ShardError, match=r"column licence has [0-9]{7} bytes"):
        Manifest.from_bytes(data)


def test_columns_of_one_name_are_no_manifest():
    """Damage, or another's file: it is said so."""
    table = pq.read_table(pa.BufferReader(manifest_of(3).to_bytes()))
    sink = io.BytesIO()
    pq.write_table(table.append_column("size", table["size"]), sink)

    with pytest.raises(
        ShardError, match="not a manifest: columns are image_id, path_bytes, size, mtime_ns, size"
    ):
        Manifest.from_bytes(sink.getvalue())


def test_reading_takes_hardly_more_than_what_is_read():
    """Twice the table at most, of 300,000 paths: a column, not a table, is held in two shapes at once."""
    data = in_pieces(manifest_of(300_000), 30_000)
    done = subprocess.run([sys.executable, "-c", PEAK], input=data, stdout=subprocess.PIPE, check=True)

    assert float(done.stdout) < 2.1
