"""What a process keeps for its Ray: private, and gone when the process is, however it ended."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sam_engine.cluster import ray_session
from sam_engine.config import ExecutorConfig
from sam_engine.errors import WorkerError

ASK = """
import sys, time
from sam_engine.cluster import ray_session
ray_session.short_temporary_directory = lambda: sys.argv[1]
print(ray_session.private_folder(), ray_session._token_file(), flush=True)
if sys.argv[2] == "stay":
    time.sleep(600)
"""


def ask(parent, what="leave"):
    """Start a process that asks for its private folder; return it, the folder and the token's file."""
    process = subprocess.Popen(
        [sys.executable, "-c", ASK, str(parent), what], stdout=subprocess.PIPE, text=True
    )
    folder, token = process.stdout.readline().split()
    return process, Path(folder), Path(token)


def test_private_folder_is_private(tmp_path):
    """Only its owner can enter it, and read the secret in it."""
    process, folder, token = ask(tmp_path, "stay")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, token)]
    secret = token.read_text()
    process.kill()
    process.communicate()

    assert modes == [0o700, 0o600]
    assert len(secret) == 64


def test_private_folder_goes_with_its_process(tmp_path):
    """A process that ends leaves nothing behind."""
    process, _, _ = ask(tmp_path)
    process.communicate()

    assert list(tmp_path.iterdir()) == []


def test_folder_of_a_killed_process_is_deleted_by_the_next(tmp_path):
    """Its secret and Ray's logs go; the folder of a living process stays, and what is not ours."""
    (tmp_path / "sam-engine-thesis").mkdir()
    alive, living, _ = ask(tmp_path, "stay")
    killed, dead, _ = ask(tmp_path, "stay")
    (dead / "session_1" / "logs").mkdir(parents=True)
    killed.kill()
    killed.communicate()
    before = dead.is_dir()
    process, _, _ = ask(tmp_path)
    process.communicate()
    left = sorted(path.name for path in tmp_path.iterdir())
    alive.kill()
    alive.communicate()

    assert before
    assert left == sorted([living.name, "sam-engine-thesis"])


def test_folder_is_asked_for_once(tmp_path, monkeypatch):
    """Several sessions of a process share it."""
    monkeypatch.setattr(ray_session, "short_temporary_directory", lambda: str(tmp_path))
    ray_session.private_folder.cache_clear()
    try:
        assert ray_session.private_folder() == ray_session.private_folder()
        assert sorted(os.listdir(ray_session.private_folder())) == ["lock"]
    finally:
        ray_session.private_folder.cache_clear()


class Stopped(BaseException):
    """What our handler raises."""


def stop(number, _):
    raise Stopped(number)


def terminate_in_a_block_that_takes_over():
    with ray_session.keep_signal_handlers():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as Ray does
        os.kill(os.getpid(), signal.SIGTERM)


def test_signal_while_ray_starts_stops_the_run():
    """Ray's handler, there for a moment, would end it with exit code 15; ours is asked, and is back after."""
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Stopped):
            terminate_in_a_block_that_takes_over()
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)


class BusyRay:
    """Ray where its own parts have not started in half a minute: it raises a bare Exception then."""

    is_shut_down = False

    def is_initialized(self):
        return False

    def init(self, **_):
        raise Exception("The current node timed out during startup.")  # noqa: TRY002

    def shutdown(self):
        self.is_shut_down = True


def test_a_machine_too_busy_for_ray_is_told(monkeypatch):
    """In a line, with exit code 1: the same command goes on later."""
    ray = BusyRay()
    monkeypatch.setattr(ray_session, "import_ray", lambda: ray)
    session = ray_session.ray_session(ExecutorConfig(name="ray"))
    with pytest.raises(WorkerError, match="Ray did not start on this machine"):
        session.__enter__()

    assert ray.is_shut_down
