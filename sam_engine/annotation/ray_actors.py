"""What runs in Ray's processes: workers, and the board on which they say how far they are."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sam_engine.annotation.leases import Lease, ShardWorker
from sam_engine.cluster.ray_session import import_ray
from sam_engine.errors import SamEngineError, describe_error
from sam_engine.structures import ShardProgress, ShardReport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """What a worker answers when it has loaded its model: where it is."""

    device_name: str
    node_id: str


@dataclass(frozen=True, slots=True)
class Failure:
    """What a worker answers when a shard raised: the reason, and how far it was."""

    reason: str
    last: ShardProgress | None


class Board:
    """An actor beside the driver, where workers say which image they take in hand.

    It outlives them: what is written here is known after they died.
    """

    def __init__(self) -> None:
        self._latest: dict[int, ShardProgress] = {}

    def note(self, lease_number: int, progress: ShardProgress) -> None:
        """Write down what a worker said."""
        self._latest[lease_number] = progress

    def latest(self) -> dict[int, ShardProgress]:
        """Return what was noted last under each lease."""
        return self._latest

    def forget(self, lease_number: int) -> None:
        """Drop what was noted under a lease that has ended."""
        self._latest.pop(lease_number, None)


class Actor:
    """A worker process."""

    def __init__(self, make_worker: Callable[[], ShardWorker], board: Any) -> None:
        self._make_worker = make_worker
        self._board = board
        self._worker: ShardWorker | None = None

    def start(self, probe: bool) -> Started:
        """Load the model. Not in the constructor: an exception there reaches the driver as a mere death."""
        self._worker = self._make_worker()
        if probe:
            self._worker.probe()
        node_id = import_ray().get_runtime_context().get_node_id()
        return Started(self._worker.device_name, node_id)

    def work(self, lease: Lease) -> ShardReport | Failure:
        """Do one shard. Errors of the engine are raised, all others returned with how far it was."""
        ray = import_ray()
        assert self._worker is not None
        last = None
        try:
            for event in self._worker.work(lease):
                if isinstance(event, ShardReport):
                    return event
                last = event
                noted = self._board.note.remote(lease.number, event)
                if lease.careful:  # the next thing may be our death: the name must have arrived before
                    with contextlib.suppress(ray.exceptions.RayError):
                        ray.get(noted)
        except SamEngineError:
            raise
        except Exception as error:
            log.exception("shard %d", lease.shard.index)
            return Failure(describe_error(error), last)
        raise AssertionError("a worker ends with a report")
