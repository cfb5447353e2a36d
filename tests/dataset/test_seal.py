"""A file's own digests: every single bit matters, and whole files pass."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.dataset.schema import records_to_table
from sam_engine.dataset.seal import check_footer, read_digest
from sam_engine.dataset.shards import encode_shard
from sam_engine.structures import Shard
from tests.helpers.dataset_builder import FINGERPRINT, sample_records, sealed

DATA = encode_shard(sample_records(), shard=Shard(index=0, start=0, stop=5), fingerprint=FINGERPRINT)
FOOTER_START = len(DATA) - 8 - int.from_bytes(DATA[-8:-4], "little")


def flipped(place, bit=0):
    data = bytearray(DATA)
    data[place] ^= 1 << bit
    return io.BytesIO(bytes(data))


def test_a_shard_is_intact():
    """What our writer makes passes both checks, and stays the Parquet file that it was."""
    check_footer(io.BytesIO(DATA))

    assert read_digest(io.BytesIO(DATA)).is_intact
    assert pq.read_table(pa.BufferReader(DATA)).num_rows == 5


def test_one_flipped_bit_of_any_byte_breaks_the_seal():
    """Every byte of a file, one bit of each."""
    silent = [p for p in range(len(DATA)) if read_digest(flipped(p, p % 8)).is_intact]

    assert silent == []


def test_one_flipped_bit_of_the_footer_is_seen_without_the_rest():
    """Every byte but those of the file's digest: that one is not known yet when the footer's is taken."""
    file_digest = DATA.rindex(b"sam_engine.sha256") + len(b"sam_engine.sha256") + 2
    silent = []
    for place in range(FOOTER_START, len(DATA) - 4):
        try:
            check_footer(flipped(place))
        except ValueError:
            continue
        silent.append(place)

    assert set(silent) <= set(range(file_digest, file_digest + 64))


@pytest.mark.parametrize("size", [0, 7, 8, len(DATA) // 2, len(DATA) - 1])
def test_a_cut_off_file_is_not_intact(size):
    """Wherever it ends."""
    assert not read_digest(io.BytesIO(DATA[:size])).is_intact
    with pytest.raises(ValueError, match="footer"):
        check_footer(io.BytesIO(DATA[:size]))


def test_a_file_without_digests_is_not_intact():
    """Another writer's file does not pass for ours."""
    sink = pa.BufferOutputStream()
    pq.write_table(records_to_table(sample_records()), sink)

    assert not read_digest(io.BytesIO(sink.getvalue().to_pybytes())).is_intact


def test_a_name_that_looks_like_a_digest_changes_nothing():
    """Names of images get into the footer's statistics; the digests come after them."""
    hostile = "sam_engine.sha256\x18\x40" + "0" * 64
    table = records_to_table(sample_records())
    names = pa.array([hostile] * len(table), pa.string())
    table = table.set_column(1, table.schema.field("file_name"), names)
    data = sealed(table, {b"sam_engine.shard": b"0"})
    check_footer(io.BytesIO(data))

    assert read_digest(io.BytesIO(data)).is_intact
