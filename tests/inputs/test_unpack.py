"""A compressed tar is unpacked once on a machine, for all processes and for later runs, in little memory."""

import gzip
import io
import multiprocessing
import os
import tarfile
import tracemalloc

import pytest

from sam_engine.config import DecodeConfig
from sam_engine.inputs import tar as tars
from sam_engine.inputs import unpack
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import Account, ListingRules
from tests.helpers.inputs import entries, refusal

NUM_IMAGES, IMAGE_BYTES = 1000, 7500


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for unpacked tars."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def count(tmp_path, monkeypatch):
    """Return a function that says how many bytes were decompressed, in this process and its children."""
    total = tmp_path / "total"
    total.touch()

    class Counting(gzip.GzipFile):
        def read1(self, size=-1):
            data = super().read1(size)
            with total.open("a") as file:
                file.write(f"{len(data)}\n")
            return data

    magic = unpack.OPENERS["gzip"][0]
    monkeypatch.setitem(unpack.OPENERS, "gzip", (magic, lambda file: Counting(fileobj=file)))
    return lambda: sum(map(int, total.read_text().split()))


def write_gzip_tar(path) -> int:
    """Write images of random bytes in a gzip tar under a plain name; return the bytes of the plain tar."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for number in range(NUM_IMAGES):
            info = tarfile.TarInfo(f"sa_{number * 7919 % NUM_IMAGES}.jpg")
            info.size = IMAGE_BYTES
            tar.addfile(info, io.BytesIO(os.urandom(IMAGE_BYTES)))
    path.write_bytes(gzip.compress(plain.getvalue(), 1))
    return len(plain.getvalue())


def read_shard(source, shard) -> int:
    """Read one shard in a process of its own, as a worker does; return how many bytes it has."""
    tars.tar_index.cache_clear()
    return sum(len(source.read(entry, DecodeConfig())) for entry in shard)


def test_a_gzip_tar_is_decompressed_at_most_twice(tmp_path, count):
    """1,000 images in 10 shards, four workers, and a run that goes on: once in all, counted in bytes."""
    size = write_gzip_tar(tmp_path / "sa_000000.tar")
    source = open_input(str(tmp_path / "sa_000000.tar"))
    listing = entries(source)
    shards = [(source, listing[start : start + 100]) for start in range(0, NUM_IMAGES, 100)]
    with multiprocessing.get_context("fork").Pool(4) as workers:
        read = workers.starmap(read_shard, shards, chunksize=1)
    tars.tar_index.cache_clear()
    again = entries(open_input(str(tmp_path / "sa_000000.tar")))

    assert sum(read) == NUM_IMAGES * IMAGE_BYTES
    assert again == listing
    assert count() <= 2 * size
    assert count() == size


def test_memory_stays_flat(tmp_path):
    """Unpacking holds a chunk of the tar, not the tar."""
    size = write_gzip_tar(tmp_path / "x.tar")
    tracemalloc.start()
    unpack.plain_file(str(tmp_path / "x.tar"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < min(4 * unpack.CHUNK_BYTES, size / 2)


def test_workers_wait_for_the_first(tmp_path, count):
    """Four that come at once unpack it once."""
    size = write_gzip_tar(tmp_path / "x.tar")
    with multiprocessing.get_context("fork").Pool(4) as workers:
        found = workers.map(unpack.plain_file, [str(tmp_path / "x.tar")] * 4, chunksize=1)

    assert len(set(found)) == 1
    assert count() == size


def test_what_the_cache_lost_is_unpacked_again(tmp_path):
    """Somebody emptied it between listing and reading."""
    write_gzip_tar(tmp_path / "x.tar")
    source = open_input(str(tmp_path / "x.tar"))
    first, *_ = entries(source)
    for path in (tmp_path / "cache").rglob("*.tar"):
        path.unlink()

    assert len(source.read(first, DecodeConfig())) == IMAGE_BYTES


def test_a_cut_gzip_is_refused(tmp_path):
    """Or taken as far as it goes; either way it is said how far that is."""
    write_gzip_tar(tmp_path / "x.tar")
    os.truncate(tmp_path / "x.tar", (tmp_path / "x.tar").stat().st_size // 2)
    account = Account()
    source = open_input(str(tmp_path / "x.tar"), ListingRules(accept_incomplete=True))
    files = list(source.iter_files(account))

    assert NUM_IMAGES * 0.4 < len(files) < NUM_IMAGES * 0.6
    assert f"{len(files)} whole files" in account.incomplete[0]
    assert "gzip stream is cut or damaged after" in refusal(tmp_path / "x.tar")
