"""Full, read-only or rationed storage: exit 4, a line that says so, and the same command resumes."""

import contextlib
import errno
import os
import resource
import subprocess

import pytest

from pipelines.auto_annotate import COMMAND, run
from pipelines.config import main
from tests.helpers import fakes

SETTINGS = (
    "model.checkpoint=random", "executor=inline", "shard_size=8", "previews=0", "amg.points_per_side=4",
    "amg.min_mask_region_area=0",
)  # fmt: skip


def annotate(folder, output):
    """Run the program in this process; return its exit code."""
    arguments = [f"input={folder}", f"output={output}", *SETTINGS]
    return main(COMMAND, lambda config: run(config, fakes.make_disc_segmenter), arguments)


def size(path):
    return path.stat().st_size


@pytest.fixture
def photos(tmp_path):
    return fakes.write_images(tmp_path / "in", 24)


@pytest.fixture
def calm(photos, tmp_path, capsys):
    """What a run makes that nobody disturbs."""
    assert annotate(photos, tmp_path / "calm") == 0
    capsys.readouterr()
    return tmp_path / "calm"


def check_stopped(code, output, err, reason):
    """Hold one line with path, reason and room against the promise; nothing half-written is left."""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]

    assert code == 4
    assert len(errors) == 1
    assert f"error: {output}" in errors[0]
    assert reason in errors[0]
    assert "bytes free" in errors[0]
    assert not (output / "_SUCCESS.json").exists()


def check_resumed(photos, output, calm):
    """Once there is room, the same command ends with the same shards, and leaves no temporary."""
    assert annotate(photos, output) == 0
    assert fakes.shard_bytes(output) == fakes.shard_bytes(calm)
    assert list((output / "_meta" / "tmp").iterdir()) == []


def test_file_that_may_not_grow_stops_the_run(photos, calm, tmp_path, capsys):
    """A real refusal of the kernel that needs no privileges: the limit on the size of files."""
    shards = [size(path) for path in (calm / "annotations").iterdir()]
    others = [size(path) for path in calm.glob("_meta/*") if path.is_file()]
    assert max(others) < min(shards), "the limit must hit shards first"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(shards) - 1, before[1]))
    try:
        code = annotate(photos, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    check_stopped(code, tmp_path / "out", capsys.readouterr().err, "File too large")
    check_resumed(photos, tmp_path / "out", calm)


def test_quota_that_is_used_up_stops_the_run(photos, calm, tmp_path, capsys, monkeypatch):
    """The second shard does not fit any more; the first is kept, and not made again."""
    write, limit = os.write, min(size(path) for path in (calm / "annotations").iterdir())
    shards_left = [1]

    def within_quota(descriptor, data):
        if len(data) >= limit:
            if not shards_left:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
            shards_left.pop()
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", within_quota)
        code = annotate(photos, tmp_path / "out")
    kept = tmp_path / "out/annotations/shard-000000.parquet"
    made = kept.stat().st_mtime_ns

    check_stopped(code, tmp_path / "out", capsys.readouterr().err, "Disk quota exceeded")
    check_resumed(photos, tmp_path / "out", calm)
    assert kept.stat().st_mtime_ns == made


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_directory_without_permission_stops_the_run(photos, calm, tmp_path, capsys):
    """Nothing can be created in it; once it may be written to, the run goes on."""
    (tmp_path / "out").mkdir(mode=0o555)
    code = annotate(photos, tmp_path / "out")

    check_stopped(code, tmp_path / "out", capsys.readouterr().err, "Permission denied")
    (tmp_path / "out").chmod(0o755)
    check_resumed(photos, tmp_path / "out", calm)


@contextlib.contextmanager
def small_disk(folder, num_bytes):
    """Mount a file system of that size; skip where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    try:
        allowed = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_disk_that_is_full_stops_the_run(photos, calm, tmp_path, capsys):
    """A real file system too small for the second shard; after making room the run goes on."""
    disk, page = tmp_path / "disk", 4096
    sizes = [size(path) for path in calm.glob("**/*") if path.is_file() and path.name != "README.md"]
    with small_disk(disk, sum(-(-value // page) * page for value in sizes) // 2):
        code = annotate(photos, disk / "out")

        check_stopped(code, disk / "out", capsys.readouterr().err, "No space left on device")
        remount(disk, "size=100m")
        check_resumed(photos, disk / "out", calm)


def test_disk_that_turns_read_only_stops_the_run(photos, calm, tmp_path, capsys):
    """As a file system does that finds itself damaged: no shard is touched, and the run goes on later."""
    disk = tmp_path / "disk"
    with small_disk(disk, 2**26):
        assert annotate(photos, disk / "out") == 0
        (disk / "out/annotations/shard-000001.parquet").unlink()
        (disk / "out/_SUCCESS.json").unlink()
        capsys.readouterr()
        remount(disk, "ro")
        code = annotate(photos, disk / "out")

        check_stopped(code, disk / "out", capsys.readouterr().err, "Read-only file system")
        remount(disk, "rw")
        check_resumed(photos, disk / "out", calm)
