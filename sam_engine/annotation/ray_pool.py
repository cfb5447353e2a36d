"""Run shards on a pool of Ray actors. Nothing else in this room knows Ray.

Ray starts processes and carries leases to them; retrying is ours (`leases`), because Ray's retries know
neither shards nor images. Each worker has one lease and gets it only after it has answered once, so a worker
that is still waiting for a machine holds up nobody.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sam_engine.annotation.leases import Event, Lease, ShardQueue, ShardWorker, place_workers
from sam_engine.cluster.ray_session import import_ray, last_line, ray_session
from sam_engine.config import ExecutorConfig
from sam_engine.errors import ModelLoadError, SamEngineError, WorkerError, describe_error
from sam_engine.structures import ImageStatus, ShardProgress, ShardReport

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
"""Workers in a row that could not load the model before no more are started for a while. If there are no
others, the run stops."""
START_PAUSE_S = 60.0
"""Until others are started all the same, in seconds."""
POLL_S = 0.5
"""Between looks at the workers' progress, in seconds."""
RAY_CHECK_S = 5.0
"""Between questions whether Ray still runs on this machine, while workers are awaited, in seconds."""
NO_WORKER_WARNING_S = 60.0
"""Without any worker before the log says so, in seconds."""


def run_on_ray(
    queue: ShardQueue, make_worker: Callable[[], ShardWorker], config: ExecutorConfig, device: str
) -> Iterator[Event]:
    """Do all shards on actors of a Ray session, which is started if there is none.

    Args:
        queue: What is to be done.
        make_worker: Builds a worker in the process that will run it. Picklable.
        config: Where and how many.
        device: The model's device; decides what a worker reserves.

    Raises:
        ConfigError, ModelLoadError, WorkerError, StorageError: As `run_shards`.
    """
    log.info(
        "starting Ray on this machine" if config.address == "local" else f"joining Ray at {config.address}"
    )
    with ray_session(config):
        yield from _RayPool(queue, make_worker, config, device).run()


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a worker answers when a shard raised: the reason, and how far it was."""

    reason: str
    last: ShardProgress | None


class _Board:
    """An actor beside the driver, where workers say which image they take in hand.

    It outlives them: what is written here is known after they died.
    """

    def __init__(self) -> None:
        self._latest: dict[int, ShardProgress] = {}

    def note(self, lease_number: int, progress: ShardProgress) -> None:
        self._latest[lease_number] = progress

    def latest(self) -> dict[int, ShardProgress]:
        """Return what was noted last under each lease."""
        return self._latest

    def forget(self, lease_number: int) -> None:
        """Drop what was noted under a lease that has ended."""
        self._latest.pop(lease_number, None)


class _Actor:
    """A worker process."""

    def __init__(self, make_worker: Callable[[], ShardWorker], board: Any) -> None:
        self._make_worker = make_worker
        self._board = board
        self._worker: ShardWorker | None = None

    def start(self, probe: bool) -> str:
        """Load the model. Not in the constructor: an exception there reaches the driver as a mere death."""
        self._worker = self._make_worker()
        if probe:
            self._worker.probe()
        return self._worker.device_name

    def work(self, lease: Lease) -> ShardReport | _Failure:
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
            return _Failure(describe_error(error), last)
        raise AssertionError("a worker ends with a report")


@dataclass(slots=True)
class _Busy:
    """An actor with a lease."""

    actor: Any
    lease: Lease
    last: ShardProgress | None = None
    """What it said last, as far as the driver knows."""
    heard: float = field(default_factory=time.monotonic)
    """When it said something new."""


class _RayPool:
    """Actors in three states: starting (model loading, or no machine yet), idle, busy."""

    def __init__(
        self,
        queue: ShardQueue,
        make_worker: Callable[[], ShardWorker],
        config: ExecutorConfig,
        device: str,
    ) -> None:
        self._ray = ray = import_ray()
        self._queue = queue
        self._config = config
        resources = ray.cluster_resources()
        placement = place_workers(
            config, device, cpus=int(resources.get("CPU", 1)), gpus=int(resources.get("GPU", 0))
        )
        self._size = min(placement.num_workers, len(queue))
        self._node_id = ray.get_runtime_context().get_node_id()
        self._next_ray_check = 0.0
        node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(self._node_id, soft=True)
        # Restarted by Ray, unlike workers: it holds nothing that has to be true.
        board_class = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=node)(_Board)
        self._board = board_class.remote()
        self._new_actor = functools.partial(
            ray.remote(
                num_cpus=config.threads_per_worker,
                num_gpus=placement.gpus_per_worker,
                max_restarts=0,
                max_task_retries=0,
            )(_Actor).remote,
            make_worker,
            self._board,
        )
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Any, _Busy] = {}
        self._failed_starts = 0
        self._start_failure = ""
        self._next_start = 0.0
        self._had_failures = False
        self._look: Any = None
        self._looked = 0.0
        self._warn_at = time.monotonic() + NO_WORKER_WARNING_S

    def run(self) -> Iterator[Event]:
        """Yield events until no shard is left."""
        log.info("waiting for the first of %d workers to load the model", self._size)
        try:
            while self._queue or self._busy:
                self._start_workers()
                while self._queue and self._idle:
                    actor, lease = self._idle.pop(), self._queue.lease()
                    self._busy[actor.work.remote(lease)] = _Busy(actor, lease)
                done, _ = self._ray.wait([*self._starting, *self._busy], num_returns=1, timeout=POLL_S)
                for reference in done:
                    if reference in self._starting:
                        self._on_started(reference)
                    else:
                        yield from self._collect(reference)
                yield from self._look_at_board()
                self._warn_if_no_worker()
                self._check_ray_is_alive()
        finally:
            at_work = [busy.actor for busy in self._busy.values()]
            for actor in [*self._starting.values(), *self._idle, *at_work]:
                self._ray.kill(actor)
            self._ray.kill(self._board)

    def _warn_if_no_worker(self) -> None:
        """Say once that no worker has started, if that takes suspiciously long."""
        if self._warn_at and time.monotonic() > self._warn_at:
            self._warn_at = 0.0
            log.warning(
                "no worker has started for %g s: are CPUs or GPUs of the cluster free?", NO_WORKER_WARNING_S
            )

    def _check_ray_is_alive(self) -> None:
        """Raise `WorkerError` if Ray has died on this machine: whoever is awaited would never come."""
        now = time.monotonic()
        if not self._starting or now < self._next_ray_check:
            return
        self._next_ray_check = now + RAY_CHECK_S
        nodes = {node["NodeID"]: node["Alive"] for node in self._ray.nodes()}
        if not nodes.get(self._node_id, True):
            raise WorkerError("Ray's process on this machine has died; the same command goes on from here")

    def _start_workers(self) -> None:
        """Start actors up to what the open shards can use.

        Raises:
            ModelLoadError: There are none, and none could be started lately.
        """
        if self._failed_starts >= MAX_FAILED_STARTS:
            if not (self._starting or self._idle or self._busy):
                raise ModelLoadError(
                    f"{self._failed_starts} workers in a row could not load the model: {self._start_failure}"
                )
            if time.monotonic() < self._next_start:
                return
        wanted = min(self._size, len(self._queue) + len(self._busy))
        while len(self._starting) + len(self._idle) + len(self._busy) < wanted:
            actor = self._new_actor()
            self._starting[actor.start.remote(self._had_failures)] = actor

    def _on_started(self, reference: Any) -> None:
        """Take in an actor that has loaded its model, or note that it could not."""
        actor = self._starting.pop(reference)
        try:
            device_name = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SamEngineError):
                raise error.cause from error
            reason = describe_error(error.cause) if error.cause else last_line(error)
        except self._ray.exceptions.RayError as error:
            reason = f"its process died: {last_line(error)}"
        else:
            log.debug("a worker is ready on %s", device_name)
            self._failed_starts = 0
            self._warn_at = 0.0
            self._idle.append(actor)
            return
        self._ray.kill(actor)
        self._failed_starts += 1
        self._start_failure, self._next_start = reason, time.monotonic() + START_PAUSE_S
        log.warning("a worker could not load the model: %s", reason)

    def _collect(self, reference: Any) -> Iterator[Event]:
        """Take a busy actor's answer."""
        busy = self._busy.pop(reference)
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SamEngineError):
                raise error.cause from error
            answer = _Failure(last_line(error), None)
        except self._ray.exceptions.RayError as error:
            # Dead or unreachable; perhaps still writing, which is safe: publishing is exclusive.
            log.info("shard %d: Ray says: %s", busy.lease.shard.index, last_line(error))
            # It names processes and machines: not for rows, which are the same in every run.
            yield from self._on_lost(busy, "the worker died")
            return
        if isinstance(answer, ShardReport):
            self._board.forget.remote(busy.lease.number)
            self._queue.done(busy.lease)
            self._idle.append(busy.actor)
            yield answer
            return
        # A fresh process too: after some CUDA errors nothing works in the old one.
        self._ray.kill(busy.actor)
        busy.last = answer.last
        yield from self._failed(busy, answer.reason, certain=True)

    def _on_lost(
        self, busy: _Busy, reason: str, status: ImageStatus = ImageStatus.WORKER_CRASH
    ) -> Iterator[Event]:
        """Let go of an actor that is dead or hangs, and blame the image in hand if it is certain."""
        self._ray.kill(busy.actor)
        with contextlib.suppress(self._ray.exceptions.RayError):
            latest = self._ray.get(self._board.latest.remote(), timeout=10)
            busy.last = latest.get(busy.lease.number, busy.last)
        # Who hangs has had the time to say with what; who dies may have died of an image read ahead.
        certain = busy.lease.careful or status is ImageStatus.TIMEOUT
        yield from self._failed(busy, reason, certain=certain, status=status)

    def _failed(
        self, busy: _Busy, reason: str, *, certain: bool, status: ImageStatus = ImageStatus.WORKER_CRASH
    ) -> Iterator[Event]:
        log.warning("shard %d: %s", busy.lease.shard.index, reason)
        self._had_failures = True
        self._board.forget.remote(busy.lease.number)
        given_up = self._queue.fail(busy.lease, reason, last=busy.last, certain=certain, status=status)
        if given_up is not None:
            yield given_up

    def _look_at_board(self) -> Iterator[Event]:
        """Yield what is new, and replace workers that have been silent for too long."""
        now = time.monotonic()
        if self._look is None:
            if now - self._looked >= POLL_S:
                self._look, self._looked = self._board.latest.remote(), now
            return
        ready, _ = self._ray.wait([self._look], timeout=0)
        if not ready:
            return
        try:
            latest = self._ray.get(self._look)
        except self._ray.exceptions.RayError:
            latest = {}
        self._look = None
        for reference, busy in list(self._busy.items()):
            progress = latest.get(busy.lease.number)
            if progress is not None and progress != busy.last:
                busy.last, busy.heard = progress, now
                yield progress
            elif now - busy.heard > self._config.shard_timeout_s:
                del self._busy[reference]
                reason = f"no sign of life for {self._config.shard_timeout_s:g} s (executor.shard_timeout_s)"
                yield from self._on_lost(busy, reason, ImageStatus.TIMEOUT)
