"""A connection to Ray: our own, private and token-protected on this machine, or that of a running cluster."""

import atexit
import contextlib
import functools
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sam_engine.config import ExecutorConfig
from sam_engine.errors import ConfigError, WorkerError

log = logging.getLogger(__name__)

REACH_TIMEOUT_S = 10.0
"""For the first contact with a cluster, in seconds."""
OBJECT_STORE_BYTES = 100 * 2**20
"""Ray's shared memory: nothing larger than a report crosses it."""

_PREFIX, _LOCK, _TOKEN = "sam-engine-", "lock", "token"


def import_ray() -> Any:
    """Import Ray late: it takes a second. Any, because its annotations lag behind its interface."""
    import ray

    return ray


@contextlib.contextmanager
def ray_session(config: ExecutorConfig) -> Iterator[None]:
    """Be connected to Ray inside the block; a session that was there before is used and left alone.

    Raises:
        ConfigError: No cluster answers at the address.
        WorkerError: Ray does not start here.
    """
    local = config.address == "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray reads these when it is imported: later they would be half in force. Other clusters have own rules.
    if local and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            os.environ["RAY_AUTH_TOKEN_PATH"] = _token_file()
        # Or Ray hides all GPUs from workers that reserve none, as those of model.device=cuda:N.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as stack:
        if local:
            # Ray opens its folder to everybody (mode 0777): the one above stays shut. One letter, see below.
            folder = os.path.join(private_folder(), "r")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(ray.shutdown)
        try:
            with keep_signal_handlers():
                if local:
                    wanted = (config.num_workers or 0) * config.threads_per_worker
                    ray.init(
                        address="local",
                        num_cpus=max(wanted, len(os.sched_getaffinity(0))),
                        object_store_memory=OBJECT_STORE_BYTES,
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        _temp_dir=folder,
                    )
                else:
                    refuse_unreachable(config.address)
                    ray.init(address=config.address, log_to_driver=False, logging_level=logging.ERROR)
        except ConfigError:
            raise
        except Exception as error:  # Ray raises bare ones, as where its own parts have not started in 30 s
            raise _did_not_start(error) if local else _no_answer(config.address, error) from error
        yield


def refuse_unreachable(address: str) -> None:
    """Raise `ConfigError` if nothing listens at ``host:port``, or it is no address at all."""
    if ":" not in address and address not in ("auto", "local"):
        raise ConfigError(
            f"executor.address is {address!r}; give host:port, or auto for this machine's cluster"
        )
    try:
        check_reachable(address)
    except OSError as error:
        raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> ConfigError:
    return ConfigError(f"executor.address is {address!r}: Ray does not answer there: {last_line(error)}")


def _did_not_start(error: Exception) -> WorkerError:
    return WorkerError(
        f"Ray did not start on this machine, which may be too busy: {last_line(error)} The same command goes "
        "on; executor=inline does without Ray"
    )


def check_reachable(address: str) -> None:
    """Raise `OSError` if nothing listens at ``host:port``. Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_TIMEOUT_S).close()


@functools.cache
def private_folder() -> str:
    """Return a folder of this process, which nobody else may enter, for Ray's sessions and the secret.

    It goes when the process ends. If that was killed, the next one to ask for a folder deletes it: a lock
    tells the dead from the living.
    """
    import fcntl  # late: readers of datasets run on systems that have none

    parent = short_temporary_directory()
    for lock in Path(parent).glob(f"{_PREFIX}*/{_LOCK}"):
        _delete_if_dead(lock)
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)  # mode 0700
        path = os.path.join(folder, _LOCK)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held as long as this process lives
        if os.fstat(descriptor).st_nlink:
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            return folder
        os.close(descriptor)  # taken for a dead one's between its creation and its lock


def _delete_if_dead(lock: Path) -> None:
    """Delete a process's private folder if the process is gone."""
    import fcntl

    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # another user's, or deleted meanwhile
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        log.debug("%s was left behind by a process that was killed", lock.parent)
        shutil.rmtree(lock.parent, ignore_errors=True)
    finally:
        os.close(descriptor)


@functools.cache
def _token_file() -> str:
    """Write this process's secret for its own Ray; return the path. Ray reads it once in a process's life."""
    path = os.path.join(private_folder(), _TOKEN)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path


def short_temporary_directory() -> str:
    """Return where a session's sockets fit: their paths may have 107 characters."""
    folder = tempfile.gettempdir()
    # FOLDER/sam-engine-12345678/r/session_2026-11-22_21-39-55_123456_1234567/sockets/plasma_store
    return folder if len(folder) <= 20 else "/tmp"  # noqa: S108 - mkdtemp makes a private folder in it


@contextlib.contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """Have the handlers of the signals that end a run after the block, although Ray puts in its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except (
        SystemExit
    ) as ended:  # what Ray's handler makes of a SIGTERM that comes before the end of the block
        handler = handlers.get(ended.code)  # type: ignore[call-overload]
        if callable(handler):
            handler(ended.code, None)
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def last_line(error: BaseException) -> str:
    """Return the last line of an exception's text, which is where Ray has the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
