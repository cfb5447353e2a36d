"""A failure that may pass is not final: touched files, errors of a moment, and ``retry_failed=true``."""

import errno
import os

import pytest

from sam_engine import annotate_dataset, open_dataset
from sam_engine.dataset.verify import verify_dataset
from sam_engine.errors import ImageError
from sam_engine.inputs.source import TRANSIENT, FileInput, unreadable
from tests.helpers import fakes


def annotate(tmp_path, **settings):
    """Six images in three shards."""
    if not (tmp_path / "in").exists():
        fakes.write_images(tmp_path / "in", 6)
    return annotate_dataset(
        input=tmp_path / "in",
        output=tmp_path / "out",
        model={"checkpoint": "random"},
        amg={"points_per_side": 2},
        executor="inline",
        shard_size=2,
        previews=0,
        make_model=fakes.make_disc_segmenter,
        **settings,
    )


def statuses(tmp_path):
    return [str(record.status) for record in open_dataset(tmp_path / "out").records()]


def at_shard(index, action):
    """Return a callback that does something when a shard is published."""
    reports = []

    def follow(event):
        if hasattr(event, "sha256"):
            reports.append(event)
            if len(reports) == index:
                action()

    return follow


def test_a_touched_file_is_the_same_file(tmp_path):
    """Another modification time while the run is on: the bytes are what counts, and they are hashed."""
    annotate(tmp_path, on_event=at_shard(1, lambda: os.utime(tmp_path / "in/005.png", ns=(0, 1))))

    assert statuses(tmp_path) == ["ok"] * 6


def test_touched_files_are_no_new_input(tmp_path, caplog):
    """Before a run goes on: it takes the new times, and says so."""
    notes = []

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate(tmp_path, on_event=at_shard(1, stop))
    os.utime(tmp_path / "in/005.png", ns=(0, 1))
    annotate(tmp_path, on_event=lambda event: notes.extend(getattr(event, "notes", ())))

    assert notes == [
        "1 images have a new modification time since the dataset was started; they are read as they are now"
    ]
    assert statuses(tmp_path) == ["ok"] * 6


@pytest.fixture
def shaky(monkeypatch):
    """Return a function that makes reading fail so many times with an error; it returns all attempts."""

    def make(number, times):
        attempts = []
        read = FileInput.read

        def fail(self, entry, config):
            attempts.append(entry.path)
            if attempts.count(entry.path) <= times:
                raise unreadable(OSError(number, os.strerror(number)))
            return read(self, entry, config)

        monkeypatch.setattr(FileInput, "read", fail)
        monkeypatch.setattr("sam_engine.annotation.worker.RETRY_PAUSES_S", (0.0, 0.0))
        return attempts

    return make


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_an_error_of_a_moment_is_tried_again(tmp_path, shaky, number):
    """What a network file system says now and then costs no row."""
    shaky(number, times=2)
    annotate(tmp_path)

    assert statuses(tmp_path) == ["ok"] * 6


def test_an_error_that_stays_is_a_row(tmp_path, shaky):
    """After a few attempts, with its reason."""
    attempts = shaky(errno.EIO, times=99)
    annotate(tmp_path)

    assert statuses(tmp_path) == ["unreadable"] * 6
    assert attempts.count(b"000.png") == 3


def test_an_error_that_cannot_pass_is_asked_for_once(tmp_path, shaky):
    """Nobody waits for permissions, which a folder may lack a million times."""
    attempts = shaky(errno.EACCES, times=99)
    annotate(tmp_path)

    assert len(attempts) == 6
    assert errno.EACCES not in TRANSIENT


def test_transience_crosses_a_process_boundary():
    """An error that was pickled is as transient as before."""
    error = unreadable(OSError(errno.EIO, "Input/output error"))
    kind, arguments = error.__reduce__()

    assert kind(*arguments).is_transient
    assert isinstance(kind(*arguments), ImageError)


@pytest.fixture
def lacking(tmp_path):
    """A dataset whose second shard lacks an image that was gone, and whose third holds an empty one."""
    fakes.write_images(tmp_path / "in", 6)
    whole = (tmp_path / "in/002.png").read_bytes()
    (tmp_path / "in/004.png").write_bytes(b"")
    gone = at_shard(1, lambda: (tmp_path / "in/002.png").unlink())
    annotate(tmp_path, on_event=gone)
    (tmp_path / "in/002.png").write_bytes(whole)

    assert statuses(tmp_path) == ["ok", "ok", "vanished", "ok", "unsupported", "ok"]
    return tmp_path / "out"


def test_failed_shards_are_made_anew(tmp_path, lacking):
    """Those with a failure that may pass; the others, also with damaged files, are not touched."""
    before = fakes.shard_bytes(lacking)
    kept = {path.name: path.stat().st_ino for path in (lacking / "annotations").iterdir()}
    summary = annotate(tmp_path, retry_failed=True)
    now = {path.name: path.stat().st_ino for path in (lacking / "annotations").iterdir()}

    assert statuses(tmp_path) == ["ok", "ok", "ok", "ok", "unsupported", "ok"]
    assert [name for name in kept if now[name] != kept[name]] == ["shard-000001.parquet"]
    aside = lacking / "_meta/damaged/shard-000001.parquet.0"
    assert aside.read_bytes() == before["shard-000001.parquet"]
    assert summary.session.num_images == 2
    assert verify_dataset(open_dataset(lacking)).problems == []


def test_nothing_to_retry_does_nothing(tmp_path):
    """A dataset whose failures are final stays as it is."""
    annotate(tmp_path)
    before = fakes.shard_bytes(tmp_path / "out")
    success = (tmp_path / "out/_SUCCESS.json").stat().st_ino

    assert annotate(tmp_path, retry_failed=True).session.num_images == 0
    assert fakes.shard_bytes(tmp_path / "out") == before
    assert (tmp_path / "out/_SUCCESS.json").stat().st_ino == success


@pytest.mark.parametrize("stop_at", ["_SUCCESS.json", "annotations/shard-000001.parquet"])
def test_killed_while_it_sets_aside_it_goes_on(tmp_path, lacking, monkeypatch, stop_at):
    """_SUCCESS.json goes first: what is there says nowhere that it is whole while it is not."""
    from sam_engine.storage.local import LocalStore

    set_aside = LocalStore.set_aside

    def killed(self, name):
        target = set_aside(self, name)
        if name == stop_at:
            raise KeyboardInterrupt
        return target

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set_aside", killed)
        with pytest.raises(KeyboardInterrupt):
            annotate(tmp_path, retry_failed=True)
    assert not (lacking / "_SUCCESS.json").exists()
    annotate(tmp_path, retry_failed=True)

    assert statuses(tmp_path) == ["ok", "ok", "ok", "ok", "unsupported", "ok"]
    assert (lacking / "_SUCCESS.json").exists()


@pytest.mark.parametrize("instead", [None, "folder", "link to nothing"])
def test_what_was_not_there_yet_is_no_change(tmp_path, instead):
    """A list names a file that arrives later: a retry annotates it."""
    fakes.write_images(tmp_path / "in", 2)
    (tmp_path / "in/001.png").rename(tmp_path / "away.png")
    if instead == "folder":
        (tmp_path / "in/001.png").mkdir()
    elif instead:
        (tmp_path / "in/001.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "list.txt").write_text("in/000.png\nin/001.png\n")
    settings = {
        "input": tmp_path / "list.txt",
        "output": tmp_path / "out",
        "model": {"checkpoint": "random"},
        "amg": {"points_per_side": 2},
        "executor": "inline",
        "previews": 0,
        "make_model": fakes.make_disc_segmenter,
    }
    annotate_dataset(**settings)
    before = statuses(tmp_path)
    if instead == "folder":
        (tmp_path / "in/001.png").rmdir()
    elif instead:
        (tmp_path / "in/001.png").unlink()
    (tmp_path / "away.png").rename(tmp_path / "in/001.png")
    annotate_dataset(**settings, retry_failed=True)

    assert before in (["ok", "vanished"], ["ok", "unreadable"])
    assert statuses(tmp_path) == ["ok", "ok"]
