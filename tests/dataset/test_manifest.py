"""The manifest is one order, one digest and one cut, however its files were listed."""

import hashlib
import random
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_engine.dataset.manifest import SCHEMA, Manifest, build_manifest, cut_shards, default_shard_size
from sam_engine.errors import InputError, ShardError
from sam_engine.inputs.source import InputFile

paths = st.sets(st.binary(min_size=1, max_size=12), min_size=1, max_size=40)


def files_of(names) -> list[InputFile]:
    return [InputFile(path=name, size=len(name), mtime_ns=7) for name in names]


def numbered(count: int) -> list[InputFile]:
    return files_of(b"%05d.jpg" % number for number in range(count))


def drawn(count: int, **options) -> list[bytes]:
    manifest = build_manifest(numbered(count), **options)
    return [entry.path for entry in manifest.entries(0, len(manifest))]


@given(paths, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_rows_are_sorted_bytewise(names, source):
    """Any listing order gives the rows in Python's order of bytes, numbered from 0."""
    shuffled = files_of(names)
    source.shuffle(shuffled)
    manifest = build_manifest(shuffled)
    entries = manifest.entries(0, len(manifest))

    assert [entry.path for entry in entries] == sorted(names)
    assert [entry.image_id for entry in entries] == list(range(len(names)))
    assert all(entry.size == len(entry.path) for entry in entries)


@given(paths)
@settings(max_examples=30, deadline=None)
def test_listing_order_changes_no_byte(names):
    """The stored manifest and its digest do not depend on the order of the listing."""
    first, second = build_manifest(files_of(sorted(names))), build_manifest(files_of(sorted(names)[::-1]))

    assert first.sha256 == second.sha256
    assert first.to_bytes() == second.to_bytes()


@given(paths)
@settings(max_examples=30, deadline=None)
def test_bytes_round_trip(names):
    """What is stored is what comes back, any byte in names included."""
    manifest = build_manifest(files_of(names))
    again = Manifest.from_bytes(manifest.to_bytes())

    assert again.table.equals(manifest.table)
    assert again.sha256 == manifest.sha256


def test_digest_is_pinned():
    """The digest follows its definition, or every dataset in the world would be refused."""
    files = [InputFile(path=b"b\xff.jpg", size=3, mtime_ns=1), InputFile(path=b"a.jpg", size=5, mtime_ns=2)]
    defined = (
        b"sam-engine manifest 1\n2\n"
        + struct.pack("<qq", 5, 6)
        + b"a.jpgb\xff.jpg"
        + struct.pack("<qq", 5, 3)
    )

    assert build_manifest(files).sha256 == hashlib.sha256(defined).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        [InputFile(path=b"a", size=2, mtime_ns=1), InputFile(path=b"bc", size=1, mtime_ns=1)],
        [InputFile(path=b"ab", size=1, mtime_ns=1), InputFile(path=b"c", size=1, mtime_ns=1)],
        [InputFile(path=b"a", size=1, mtime_ns=1)],
    ],
)
def test_digest_tells_manifests_apart(other):
    """Another size, another cut between names or another number of rows is another digest."""
    base = [InputFile(path=b"a", size=1, mtime_ns=1), InputFile(path=b"bc", size=1, mtime_ns=1)]

    assert build_manifest(base).sha256 != build_manifest(other).sha256


def test_digest_ignores_times():
    """A copy of a folder with new modification times is the same input."""
    old, new = InputFile(path=b"a", size=1, mtime_ns=1), InputFile(path=b"a", size=1, mtime_ns=2)

    assert build_manifest([old]).sha256 == build_manifest([new]).sha256


def test_digest_of_a_limited_manifest_is_of_its_rows():
    """A manifest cut by limit equals one built of those files alone."""
    assert build_manifest(numbered(50), limit=7).sha256 == build_manifest(numbered(7)).sha256


def test_limit_takes_the_first_by_path():
    """The limit is of the sorted listing; more than there are is all."""
    shuffled = numbered(20)
    random.Random(1).shuffle(shuffled)
    manifest = build_manifest(shuffled, limit=3)

    assert [entry.path for entry in manifest.entries(0, 3)] == [b"00000.jpg", b"00001.jpg", b"00002.jpg"]
    assert len(build_manifest(shuffled, limit=99)) == 20


@pytest.mark.parametrize(("fraction", "count"), [(0.1, 20), (0.5, 100), (1.0, 200), (0.0001, 1)])
def test_sample_draws_the_fraction(fraction, count):
    """The number drawn is exact, and never zero."""
    assert len(drawn(200, sample=fraction)) == count


def test_sample_is_stable():
    """The same seed draws the same files from any listing order, another seed draws others."""
    shuffled = numbered(200)
    random.Random(2).shuffle(shuffled)
    manifest = build_manifest(shuffled, sample=0.1, seed=5)

    assert [entry.path for entry in manifest.entries(0, 20)] == drawn(200, sample=0.1, seed=5)
    assert drawn(200, sample=0.1, seed=5) != drawn(200, sample=0.1, seed=6)


def test_smaller_samples_lie_in_larger_ones():
    """A run extended from 10 % to 20 % keeps every image it had."""
    assert set(drawn(300, sample=0.1)) < set(drawn(300, sample=0.2))


def test_sample_comes_before_limit():
    """With both, limit cuts what was drawn."""
    assert drawn(200, sample=0.5, limit=10) == drawn(200, sample=0.5)[:10]


def test_duplicates_are_refused_by_name():
    """A path that is listed twice would be two rows of one image."""
    with pytest.raises(InputError, match=r"b\\n\.jpg is listed more than once \(1 repeats"):
        build_manifest(files_of([b"a.jpg", b"b\n.jpg", b"c.jpg", b"b\n.jpg"]))


def test_nothing_is_refused():
    """An empty listing is a mistake of the user, not an empty dataset."""
    with pytest.raises(InputError, match="no images"):
        build_manifest([])


@given(st.integers(0, 2000), st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_shards_tile_the_manifest(num_images, shard_size):
    """Shards are contiguous, numbered, hold every image once, and only the last may be short."""
    shards = cut_shards(num_images, shard_size)
    images = [image for shard in shards for image in range(shard.start, shard.stop)]

    assert images == list(range(num_images))
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(shard.num_images == shard_size for shard in shards[:-1])
    assert all(shard.num_images for shard in shards)


def test_entries_are_a_slice():
    """entries(start, stop) gives those rows, and refuses rows that are not there."""
    manifest = build_manifest(numbered(10))

    assert [entry.image_id for entry in manifest.entries(3, 6)] == [3, 4, 5]
    assert manifest.entries(4, 4) == []
    with pytest.raises(IndexError):
        manifest.entries(5, 11)


def test_every_flipped_bit_is_noticed():
    """A manifest damaged anywhere in its pages is refused instead of naming other files."""
    data = build_manifest(numbered(50)).to_bytes()
    whole = Manifest.from_bytes(data).table
    for position in range(4, len(data), 13):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        try:
            table = Manifest.from_bytes(bytes(damaged)).table
        except ShardError:
            continue

        assert table.equals(whole)  # a flip in a statistic or a version string


def test_exchanged_rows_are_refused():
    """A sound Parquet file whose rows are not those of its digest is no manifest."""
    table = pq.read_table(pa.BufferReader(build_manifest(numbered(5)).to_bytes()))
    sink = pa.BufferOutputStream()
    pq.write_table(table.slice(0, 4), sink)

    with pytest.raises(ShardError, match="contradicts its own digest"):
        Manifest.from_bytes(sink.getvalue().to_pybytes())


def test_another_table_is_no_manifest():
    """A Parquet file of other columns is refused by name."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}), sink)

    with pytest.raises(ShardError, match="columns are x"):
        Manifest.from_bytes(sink.getvalue().to_pybytes())


def test_listing_is_consumed_in_batches():
    """More files than one batch are sorted across batches; the columns are single chunks of the schema."""
    count = 70_000
    order = np.random.default_rng(0).permutation(count)
    files = (InputFile(path=b"%06d" % row, size=row, mtime_ns=0) for row in order.tolist())
    manifest = build_manifest(files)

    assert np.array_equal(manifest.table["size"].to_numpy(), np.arange(count))
    assert manifest.table.schema.equals(SCHEMA)
    assert manifest.table["path_bytes"].num_chunks == 1


@pytest.mark.parametrize(
    ("num_images", "shard_size"), [(1, 4), (8, 4), (64, 4), (400, 25), (8000, 500), (11_000_000, 500)]
)
def test_small_inputs_are_cut_finer(num_images, shard_size):
    """Sixteen shards where there are images for them, of at least 4 and at most 500 images."""
    assert default_shard_size(num_images) == shard_size
