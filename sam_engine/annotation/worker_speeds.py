"""How fast each worker is: written by drivers now and then, for whoever looks at the store.

No shard says who made it, as the same shards come out of any workers. So this stands beside the dataset, like
the report, and nothing goes by it. A run that is over before the first writing leaves nothing.
"""

import dataclasses
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sam_engine.errors import StorageError
from sam_engine.storage.store import Store
from sam_engine.structures import Partition, ShardReport

log = logging.getLogger(__name__)

WORKERS_PREFIX = "_meta/workers/"
WRITTEN_EVERY_S = 30.0
LATEST_SHARDS = 10
"""Of each worker, by which it is judged: what it was like hours ago does not count."""


@dataclass(frozen=True, kw_only=True)
class WorkerSpeed:
    """How fast one worker was of late."""

    worker: str
    """Its machine and process."""
    device: str
    num_images: int
    """In its latest shards."""
    seconds: float
    """That they took it."""

    @property
    def images_per_second(self) -> float:
        """While it worked."""
        return self.num_images / self.seconds if self.seconds else 0.0


class SpeedLog:
    """What a driver knows of its workers, written into the store at most every `WRITTEN_EVERY_S` seconds."""

    def __init__(
        self, store: Store, partition: Partition, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin; nothing is written before the first interval is over."""
        self._store = store
        name = "whole" if partition.is_whole else f"part-{partition.index}-of-{partition.count}"
        self._name = f"{WORKERS_PREFIX}{name}.json"
        self._clock = clock
        self._written = clock()
        self._latest: dict[str, deque[ShardReport]] = {}

    def heard(self, report: ShardReport) -> None:
        """Take note of a shard that was made, and write if it is time. A store that fails is only logged."""
        if report.error is not None or not report.worker:
            return
        self._latest.setdefault(report.worker, deque(maxlen=LATEST_SHARDS)).append(report)
        if self._clock() - self._written < WRITTEN_EVERY_S:
            return
        self._written = self._clock()
        speeds = [dataclasses.asdict(_speed(worker, shards)) for worker, shards in self._latest.items()]
        try:
            self._store.replace(self._name, json.dumps(speeds, indent=1).encode())
        except StorageError as error:
            log.warning("how fast workers are cannot be written: %s", error)


def worker_speeds(store: Store, newer_than: float) -> list[WorkerSpeed]:
    """Return what the drivers of a dataset have written of their workers, the slowest first.

    Args:
        store: Of the dataset.
        newer_than: Seconds since 1970: what was last written before is of drivers that are long gone.

    Raises:
        StorageError: It cannot be read.
    """
    found = []
    for each in store.scan(WORKERS_PREFIX):
        if each.modified >= newer_than:
            found += _read(store, each.name)
    return sorted(found, key=lambda speed: speed.images_per_second)


def _speed(worker: str, shards: "deque[ShardReport]") -> WorkerSpeed:
    """Return the speed of a worker over some shards."""
    return WorkerSpeed(
        worker=worker,
        device=shards[-1].device,
        num_images=sum(report.shard.num_images for report in shards),
        seconds=sum(report.seconds for report in shards),
    )


def _read(store: Store, name: str) -> list[WorkerSpeed]:
    """Return what one driver has written; nothing if it cannot be understood."""
    try:
        return [WorkerSpeed(**each) for each in json.loads(store.read(name))]
    except (ValueError, TypeError, FileNotFoundError) as error:
        log.warning("%s/%s says nothing of workers: %s", store.describe(), name, error)
        return []
