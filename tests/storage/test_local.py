"""The store: whole objects or none, one winner, errors that say where and how much room is left."""

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest

from sam_engine.errors import LockedError, StorageError
from sam_engine.storage.local import LocalStore
from sam_engine.storage.open import open_store
from sam_engine.storage.store import TEMPORARY


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "out")


def temporaries(store):
    return store.list(f"{TEMPORARY}/")


def test_what_was_put_can_be_read(store):
    """put_exclusive creates directories as needed and says that it created the object."""
    assert store.put_exclusive("annotations/a", b"x" * 100_000) is True
    assert store.read("annotations/a") == b"x" * 100_000


def test_the_second_put_changes_nothing(store):
    """An existing object is left as it is, and the caller is told."""
    store.put_exclusive("a", b"first")

    assert store.put_exclusive("a", b"second") is False
    assert store.read("a") == b"first"


def test_nothing_is_left_beside_the_object(store):
    """Temporaries are gone after a win and after a loss."""
    store.put_exclusive("a", b"1")
    store.put_exclusive("a", b"2")

    assert store.list("") == ["a"]


def test_replace_overwrites(store):
    """Reports may be rewritten."""
    store.replace("report.json", b"1")
    store.replace("report.json", b"2")

    assert store.read("report.json") == b"2"
    assert store.list("") == ["report.json"]


def test_names_are_listed_by_prefix_in_order(store):
    """List is sorted, goes into folders, and knows nothing of other prefixes."""
    for name in ("b/2", "a", "b/1", "b/c/3", "bb"):
        store.put_exclusive(name, b"")

    assert store.list("b/") == ["b/1", "b/2", "b/c/3"]
    assert store.list("b") == ["b/1", "b/2", "b/c/3", "bb"]
    assert store.list("nowhere/") == []


def test_a_store_that_does_not_exist_is_empty(store):
    """Looking does not create anything."""
    assert store.list("") == []
    assert not store.root.exists()


def test_a_missing_object_is_file_not_found(store):
    """Absence is not a storage failure."""
    with pytest.raises(FileNotFoundError):
        store.read("none")
    with pytest.raises(FileNotFoundError):
        store.open("none")


def test_open_reads_parts(store):
    """A footer can be read without the rest."""
    store.put_exclusive("a", b"0123456789")
    with store.open("a") as file:
        file.seek(-3, os.SEEK_END)

        assert file.read() == b"789"


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../../b", "a\0b", ".."])
def test_names_cannot_leave_the_root(store, name):
    """Absolute names, parents and NUL are refused before the file system sees them."""
    with pytest.raises(ValueError, match="no object name"):
        store.put_exclusive(name, b"")


def test_a_store_travels_to_workers(store):
    """Pickling keeps the place and nothing else."""
    assert pickle.loads(pickle.dumps(store)) == store


def race(root, name, worker, results):
    results.put((name, worker, LocalStore(root).put_exclusive(name, str(worker).encode())))


def test_of_many_writers_exactly_one_wins(store):
    """Eight processes and five names: each name has one winner, and holds what the winner wrote."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    names = [f"shards/{i}" for i in range(5)]
    workers = [
        context.Process(target=lambda w=w: [race(store.root, name, w, results) for name in names])
        for w in range(8)
    ]
    for worker in workers:
        worker.start()
    answers = [results.get() for _ in range(8 * 5)]
    for worker in workers:
        worker.join()
    winners = {name: [w for n, w, won in answers if n == name and won] for name in names}

    assert all(len(won) == 1 for won in winners.values())
    assert {name: int(store.read(name)) for name in names} == {name: won[0] for name, won in winners.items()}
    assert temporaries(store) == []


def fail_on(monkeypatch, call, code, *, after=0):
    """Make the next ``os.<call>`` after ``after`` good ones fail with ``code``."""
    real, left = getattr(os, call), [after]

    def failing(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, failing)


@pytest.mark.parametrize("call", ["write", "fsync", "link", "open"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_failing_disk_is_named_and_nothing_appears(store, monkeypatch, call, code):
    """A StorageError with path and free bytes; no object, no temporary; retrying works."""
    store.put_exclusive("annotations/other", b"")
    with monkeypatch.context() as patch:
        fail_on(patch, call, code)
        with pytest.raises(StorageError, match=rf"{store.root}.*{os.strerror(code)}.*[\d,]+ bytes free"):
            store.put_exclusive("annotations/a", b"data")

    assert store.list("") == ["annotations/other"]
    assert store.put_exclusive("annotations/a", b"data") is True


def test_a_failing_directory_fsync_is_not_success(store, monkeypatch):
    """The object may be there, but it is not promised to last; putting it again settles that."""
    store.put_exclusive("annotations/other", b"")
    with monkeypatch.context() as patch:
        fail_on(patch, "fsync", errno.EIO, after=1)
        with pytest.raises(StorageError):
            store.put_exclusive("annotations/a", b"data")

    assert store.put_exclusive("annotations/a", b"data") is False
    assert store.read("annotations/a") == b"data"


def test_short_writes_are_continued(store, monkeypatch):
    """The kernel may take less than it is offered."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:7])))
    store.put_exclusive("a", b"0123456789" * 10)

    assert store.read("a") == b"0123456789" * 10


def test_data_is_durable_before_it_is_visible(store, monkeypatch):
    """The file is synced before the link, and the directories after it, up to the root."""
    store.put_exclusive("annotations/other", b"")
    events = []
    fsync, link = os.fsync, os.link

    def note_fsync(descriptor):
        events.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def note_link(source, target):
        events.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "link", note_link)
    store.put_exclusive("annotations/a", b"data")

    assert events == ["file", "link", "directory", "directory"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_are_no_hard_links_names_are_still_given_once(store, monkeypatch, number):
    """ExFAT and some mounts have none: an exclusive rename commits, and the second writer loses."""
    fail_on(monkeypatch, "link", number)

    assert store.put_exclusive("a", b"first")
    assert not store.put_exclusive("a", b"second")
    assert store.read("a") == b"first"
    assert temporaries(store) == []


def test_a_file_system_without_hard_links_says_so(store, monkeypatch):
    """Where neither links nor exclusive renames can be had, there is no silent third way to commit."""
    fail_on(monkeypatch, "link", errno.EOPNOTSUPP)
    monkeypatch.setattr("sam_engine.storage.exclusive._RENAME_NOREPLACE", 1 << 30)  # EINVAL, as old kernels

    with pytest.raises(StorageError, match="commits need hard links"):
        store.put_exclusive("a", b"data")
    assert temporaries(store) == []


def test_an_output_below_a_file_is_a_storage_error(tmp_path):
    """The path is named, whatever is wrong with it."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StorageError, match="Not a directory"):
        LocalStore(tmp_path / "file" / "out").put_exclusive("a", b"")


def test_a_dead_writers_temporary_is_swept_up(store):
    """What a killed process left is deleted; the temporary of a live writer is not."""
    code = (
        "import sys, time\n"
        "from sam_engine.storage.local import LocalStore\n"
        "with LocalStore(sys.argv[1])._temporary(b'data') as path:\n"
        "    print(path.name, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(store.root)], stdout=subprocess.PIPE) as writer:
        name = writer.stdout.readline().decode().strip()
        store.delete_own_temporaries()
        while_alive = temporaries(store)
        writer.kill()
    store.delete_own_temporaries()

    assert while_alive == [f"{TEMPORARY}/{name}"]
    assert temporaries(store) == []


def test_a_second_run_is_told_who_holds_the_lock(store):
    """LockedError names process and host; the exit code for it is 5."""
    with store.lock(), pytest.raises(LockedError, match=f"process {os.getpid()} on ") as caught, store.lock():
        pass

    assert caught.value.exit_code == 5


def test_the_lock_can_be_taken_again(store):
    """It is released at the end of the block, also by an exception."""
    with pytest.raises(KeyError), store.lock():
        raise KeyError
    with store.lock():
        pass


def test_a_killed_process_does_not_hold_the_lock(store):
    """SIGKILL releases at once, even while a child of the dead process lives on."""
    code = (
        "import subprocess, sys, time\n"
        "from sam_engine.storage.local import LocalStore\n"
        "with LocalStore(sys.argv[1]).lock():\n"
        "    child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL, close_fds=False)\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(store.root)], stdout=subprocess.PIPE) as holder:
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(LockedError), store.lock():
                pass
            holder.kill()
            holder.wait()
            start = time.monotonic()
            with store.lock():
                waited = time.monotonic() - start
        finally:
            os.kill(child, signal.SIGKILL)

    assert waited < 1


def test_any_local_name_will_do(tmp_path):
    """Characters that mean something elsewhere mean nothing in a path."""
    store = open_store(str(tmp_path / "a=b, (c) 'é' s3:x"))

    assert store.put_exclusive("annotations/a", b"1") is True


def test_settling_syncs_every_folder(store, monkeypatch):
    """What a killed run left visible, but not durable, is made to last: its folders and those above."""
    store.put_exclusive("annotations/a", b"data")
    synced, fsync = set(), os.fsync

    def note(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    store.settle()
    folders = [store.root / "annotations", store.root / "_meta", store.root, store.root.parent]

    assert {folder.stat().st_ino for folder in folders} <= synced


def test_settling_what_does_not_exist_is_no_error(store):
    """A new output has nothing to settle."""
    store.settle()

    assert not store.root.exists()
