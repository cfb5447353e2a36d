"""A worker in a process of its own, without Ray: what kills it is found and named, as in a pool.

The child is started with this module, takes what builds its worker, and then one lease after another; it
answers with what the worker yields. Both ends are pickled over a pipe that nobody else has. The child's log
comes along, and it ends when whoever started it does.
"""

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

from sam_engine.annotation.leases import Event, Lease, ShardWorker
from sam_engine.errors import ModelLoadError, SamEngineError, describe_error
from sam_engine.structures import ImageStatus, ShardReport

log = logging.getLogger(__name__)

_COMMAND = (
    "import sys; sys.path[:] = {2!r}; from sam_engine.annotation.child_worker import serve; serve({0}, {1})"
)
START_TIMEOUT_S = 1800.0
"""For loading the model, at least, in seconds: silence is no sign of trouble then."""
_END_TIMEOUT_S = 10.0


class WorkerLostError(Exception):
    """A worker's process died or hangs. Its shard goes to a fresh one."""

    def __init__(self, reason: str, status: ImageStatus) -> None:
        super().__init__(reason)
        self.status = status


class ShardFailedError(Exception):
    """A worker raised; the message is what and why."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """What the child says when its worker raised: the error, if it is the engine's, or else its text."""

    error: SamEngineError | str


class ChildWorker:
    """A `ShardWorker` whose work is done by another one in a child process."""

    def __init__(self, make_worker: Callable[[], ShardWorker], timeout_s: float, *, by_value: bool) -> None:
        """Start the process and wait until its worker is made.

        Args:
            make_worker: Builds it there. Picklable.
            timeout_s: Silence after which it is given up, in seconds.
            by_value: Pickle functions of a script or notebook as Ray does, which loads it.

        Raises:
            ModelLoadError: The worker cannot be made there.
            SamEngineError: As ``make_worker`` raises it.
        """
        self._timeout_s = timeout_s
        ours, theirs = Pipe()
        alive, self._alive = os.pipe()
        self._connection: Connection[Any, Any] = ours
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-P", "-c", _COMMAND.format(theirs.fileno(), alive, sys.path)],
                pass_fds=[theirs.fileno(), alive],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for whoever started it, who then ends it
            )
        finally:
            theirs.close()
            os.close(alive)
        try:
            ours.send(logging.getLogger("sam_engine").getEffectiveLevel())
            ours.send_bytes(_pickled(make_worker, by_value=by_value))
            self._device_name = self._answer(max(timeout_s, START_TIMEOUT_S))
        except (WorkerLostError, ShardFailedError) as error:
            self.close()
            raise ModelLoadError(f"the model cannot be loaded: {error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def device_name(self) -> str:
        """What the model runs on."""
        return str(self._device_name)

    def probe(self) -> None:
        """Do the least that shows that it works; raise otherwise."""
        self._connection.send(None)
        self._answer(max(self._timeout_s, START_TIMEOUT_S))

    def work(self, lease: Lease) -> Generator[Event, None, None]:
        """Yield what the worker yields there.

        Raises:
            WorkerLostError: The process died, or was silent for too long.
            ShardFailedError: The worker raised.
            SamEngineError: As the worker raises it.
        """
        try:
            self._connection.send(lease)
        except OSError:
            raise self._died() from None
        while True:
            event = self._answer(self._timeout_s)
            yield event
            if isinstance(event, ShardReport):
                return

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            os.close(self._alive)
        self._connection.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)

    def _answer(self, timeout_s: float) -> Any:
        """Return the child's next answer; what it logs before is logged here."""
        while True:
            try:
                if not self._connection.poll(timeout_s):
                    reason = f"no sign of life for {timeout_s:g} s (executor.shard_timeout_s)"
                    raise WorkerLostError(reason, ImageStatus.TIMEOUT)
                answer = self._connection.recv()
            except (EOFError, OSError):
                raise self._died() from None
            if isinstance(answer, logging.LogRecord):
                logging.getLogger(answer.name).handle(answer)
            elif isinstance(answer, _Failed):
                if isinstance(answer.error, SamEngineError):
                    raise answer.error
                raise ShardFailedError(answer.error)
            else:
                return answer

    def _died(self) -> WorkerLostError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        log.info("the worker's process ended with %s", self._process.returncode)
        # Like Ray's: it names no process and no number, for rows are the same in every run.
        return WorkerLostError("the worker died", ImageStatus.WORKER_CRASH)


def _pickled(make_worker: Callable[[], ShardWorker], *, by_value: bool) -> bytes:
    """Return what `serve` unpickles."""
    if not by_value:
        return pickle.dumps(make_worker)
    from sam_engine.cluster.ray_session import import_ray

    data: bytes = import_ray().cloudpickle.dumps(make_worker)
    return data


class _ToParent(logging.Handler):
    """Sends log records to whoever started this process."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send it as text: arguments need not pickle."""
        record.msg, record.args, record.exc_info = self.format(record), (), None
        with contextlib.suppress(OSError):
            self._send(record)


def serve(descriptor: int, alive: int) -> None:
    """Be the child: build the worker, and do what is asked for until the pipe is closed.

    Args:
        descriptor: Of the pipe's end.
        alive: Closed at its other end when whoever started this process is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
    connection: Connection[Any, Any] = Connection(descriptor)
    lock = threading.Lock()

    def send(answer: Any) -> None:
        with lock:
            connection.send(answer)

    logging.getLogger().addHandler(_ToParent(send))
    logging.getLogger("sam_engine").setLevel(connection.recv())
    worker = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            worker = pickle.loads(connection.recv_bytes())()  # noqa: S301 - from whoever started this process
            send(worker.device_name)
            while True:
                lease = connection.recv()
                if lease is None:
                    worker.probe()
                    send(None)
                    continue
                with contextlib.closing(worker.work(lease)) as events:
                    for event in events:
                        send(event)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except SamEngineError as error:
            send(_Failed(error))
        except Exception as error:  # noqa: BLE001 - it is the parent's to say what becomes of the shard
            send(_Failed(describe_error(error)))
    if worker is not None:
        worker.close()


def _end_with_parent(alive: int) -> None:
    """End this process, wherever it stands, when the other one is gone."""
    os.read(alive, 1)
    os._exit(1)
