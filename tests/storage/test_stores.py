"""What every store promises, of each kind: a directory, a bucket of moto, a container of Azurite."""

import pickle
import shutil
import threading

import pytest

from sam_engine.errors import ConfigError, LockedError
from sam_engine.storage import lease
from sam_engine.storage.exclusivity import refuse_inexclusive
from sam_engine.storage.open import open_store
from sam_engine.storage.store import SET_ASIDE, TEMPORARY
from sam_engine.structures import Partition
from tests.faults.bucket_server import azurite


@pytest.fixture(scope="module")
def azure():
    """Azurite, and what a process needs to use it."""
    if shutil.which("azurite-blob") is None:
        pytest.skip("azurite-blob is not installed (npm)")
    with azurite() as (proxy, environment), proxy.running():
        yield environment


@pytest.fixture(params=["directory", "bucket", pytest.param("container", marks=pytest.mark.slow)])
def store(request, tmp_path, monkeypatch):
    """An empty one of each kind, the last with a name that is not plain."""
    if request.param == "directory":
        return open_store(tmp_path / "out")
    if request.param == "bucket":
        return open_store(request.getfixturevalue("bucket_url") + "/a b/ü%20")
    for name, value in request.getfixturevalue("azure").items():
        monkeypatch.setenv(name, value)
    return open_store(f"az://bucket/{tmp_path.name}/a b/ü%20")


def test_of_one_name_the_first_object_stays(store):
    """An object appears whole, and the second writer is told and changes nothing."""
    assert store.put_exclusive("annotations/a", b"x" * 100_000)
    assert not store.put_exclusive("annotations/a", b"second")
    assert store.read("annotations/a") == b"x" * 100_000


def test_replace_overwrites(store):
    """Reports may be rewritten, and nothing is left beside them."""
    store.replace("report.json", b"1")
    store.replace("report.json", b"2")

    assert store.read("report.json") == b"2"
    assert store.list("") == ["report.json"]


def test_names_are_listed_by_prefix_in_order(store):
    """Of folders and of parts of names, with sizes; a limit takes some."""
    for name in ("b/2", "a", "b/1", "b/c/3", "bb", "b-/x"):
        store.put_exclusive(name, name.encode())

    assert store.list("b/") == ["b/1", "b/2", "b/c/3"]
    assert store.list("b") == ["b-/x", "b/1", "b/2", "b/c/3", "bb"]
    assert store.list("nowhere/") == []
    assert [(each.name, each.size) for each in store.scan("b/")] == [("b/1", 3), ("b/2", 3), ("b/c/3", 5)]
    assert len(store.list("", limit=2)) == 2


def test_an_object_is_there_or_not(store):
    """`has` knows files alone; what is missing is FileNotFoundError however it is asked for."""
    store.put_exclusive("b/1", b"")

    assert store.has("b/1")
    assert not store.has("b")
    assert not store.has("b/2")
    for ask in (store.read, store.open):
        with pytest.raises(FileNotFoundError):
            ask("none")


def test_an_object_is_a_seekable_file(store):
    """Ranges of a large object, from its end, over several reads, and beyond its end."""
    data = bytes(range(256)) * 2000
    store.put_exclusive("a", data)
    with store.open("a") as file, store.open("a", size=len(data)) as sized:
        assert (file.seek(-3, 2), file.read()) == (len(data) - 3, data[-3:])
        assert (file.seek(1000), file.read(200_000)) == (1000, data[1000:201_000])
        assert (file.seek(len(data) + 5), file.read(10)) == (len(data) + 5, b"")
        assert (sized.seek(5), sized.read(1), sized.read()) == (5, data[5:6], data[6:])


def test_what_is_damaged_is_moved_never_over_another(store):
    """Twice the same name gives two numbers; the name is free again."""
    moved = []
    for text in (b"one", b"two"):
        store.put_exclusive("annotations/a", text)
        moved.append(store.set_aside("annotations/a"))

    assert moved == [f"{SET_ASIDE}/a.0", f"{SET_ASIDE}/a.1"]
    assert [store.read(name) for name in moved] == [b"one", b"two"]
    assert not store.has("annotations/a")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../../b", "a\0b", ".."])
def test_names_cannot_leave_the_store(store, name):
    """Absolute names, parents and NUL are refused before anybody else sees them."""
    with pytest.raises(ValueError, match="no object name"):
        store.put_exclusive(name, b"")


def test_only_temporaries_are_deleted(store):
    """A shard cannot be deleted by mistake."""
    store.put_exclusive(f"{TEMPORARY}/x", b"")
    store.delete_temporary(f"{TEMPORARY}/x")
    store.delete_temporary(f"{TEMPORARY}/x")

    assert store.list("") == []
    with pytest.raises(ValueError, match="no temporary"):
        store.delete_temporary("annotations/a")


def test_a_store_travels_to_workers(store):
    """Pickling keeps the place and nothing else."""
    assert pickle.loads(pickle.dumps(store)) == store


def test_of_many_writers_exactly_one_wins(store):
    """Sixteen threads and five names: each name has one winner, and holds what the winner wrote."""
    names = [f"shards/{number}" for number in range(5)]
    won = []
    start = threading.Barrier(16)

    def write(worker):
        start.wait()
        won.extend((name, worker) for name in names if store.put_exclusive(name, b"%d" % worker))

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(name for name, _ in won) == names
    assert {name: int(store.read(name)) for name in names} == dict(won)


def test_the_probe_finds_an_exclusive_store_so_and_leaves_nothing(store):
    """Both kinds keep the promise."""
    refuse_inexclusive(store)

    assert store.list("") == []


def test_a_store_where_every_writer_wins_is_refused(store, monkeypatch):
    """As `rclone serve s3` does: the condition is ignored."""
    monkeypatch.setattr(
        type(store), "put_exclusive", lambda self, name, data: self.replace(name, data) or True
    )

    with pytest.raises(ConfigError, match=r"2 of 2 writers created one object.*If-None-Match"):
        refuse_inexclusive(store)
    assert store.list("") == []


@pytest.mark.parametrize(
    ("one", "other", "is_refused"),
    [
        (Partition(), Partition(), True),
        (Partition(index=0, count=2), Partition(), True),
        (Partition(), Partition(index=0, count=2), True),
        (Partition(index=0, count=2), Partition(index=0, count=2), True),
        (Partition(index=0, count=2), Partition(index=1, count=2), False),
    ],
)
def test_a_store_is_held_whole_or_in_parts(store, monkeypatch, one, other, is_refused):
    """Two parts go side by side; what overlaps is refused with its holder, and free again afterwards."""
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.02)
    with store.lock(one):
        if is_refused:
            with pytest.raises(LockedError), store.lock(other):
                pass
        else:
            with store.lock(other):
                pass
    with store.lock(other):
        pass


def test_a_name_is_held_by_one_whatever_else_is_held(store, monkeypatch):
    """It goes beside a part, and is free again afterwards."""
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.02)
    with store.lock(Partition(index=0, count=2)), store.hold("listing"):
        with pytest.raises(LockedError), store.hold("listing"):
            pass
        with store.hold("another"), store.lock(Partition(index=1, count=2)):
            pass
    with store.hold("listing"):
        pass
