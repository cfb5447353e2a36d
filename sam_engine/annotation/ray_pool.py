"""Run shards on a pool of Ray actors. Nothing else in this room knows Ray.

Ray starts processes and carries leases to them; retrying is ours (`leases`), because Ray's retries know
neither shards nor images. Each worker has one lease and gets it only after it has answered once, so a worker
that is still waiting for a machine holds up nobody, and tells an autoscaler what is wanted.

Machines come and go: what arrives is used, and what is drained gets nothing new. A worker that a machine took
along when it left is no failure.
"""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sam_engine.annotation.leases import Event, Lease, ShardQueue, ShardWorker
from sam_engine.annotation.placement import Machine, Placement, place_workers
from sam_engine.annotation.ray_actors import Actor, Board, Failure
from sam_engine.cluster.ray_metrics import RunMetrics
from sam_engine.cluster.ray_nodes import Node, alive_nodes, may_grow
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
NODES_EVERY_S = 5.0
"""Between looks at which machines are there, in seconds."""
NO_WORKER_WARNING_S = 60.0
"""Without any worker before the log says so, in seconds."""


def run_on_ray(
    queue: ShardQueue,
    make_worker: Callable[[], ShardWorker],
    config: ExecutorConfig,
    device: str,
    make_cpu_worker: Callable[[], ShardWorker] | None = None,
) -> Iterator[Event]:
    """Do all shards on actors of a Ray session, which is started if there is none.

    Args:
        queue: What is to be done.
        make_worker: Builds a worker in the process that will run it. Picklable.
        config: Where and how many.
        device: The model's device; decides what a worker reserves.
        make_cpu_worker: Builds one of ``config.cpu_workers``; None: as the others.

    Raises:
        ConfigError, ModelLoadError, WorkerError, StorageError: As `run_shards`.
    """
    log.info(
        "starting Ray on this machine" if config.address == "local" else f"joining Ray at {config.address}"
    )
    with ray_session(config):
        yield from _RayPool(queue, make_worker, config, device, make_cpu_worker or make_worker).run()


@dataclass(eq=False, slots=True)
class _Worker:
    """An actor, and which of the placements it fills."""

    actor: Any
    shape: int
    node_id: str = ""
    """Where it runs; known when it has started."""


@dataclass(eq=False, slots=True)
class _Busy:
    """A worker with a lease."""

    worker: _Worker
    lease: Lease
    last: ShardProgress | None = None
    """What it said last, as far as the driver knows."""
    heard: float = field(default_factory=time.monotonic)
    """When it said something new."""


class _RayPool:
    """Workers in three states: starting (model loading, or no machine yet), idle, busy."""

    def __init__(
        self,
        queue: ShardQueue,
        make_worker: Callable[[], ShardWorker],
        config: ExecutorConfig,
        device: str,
        make_cpu_worker: Callable[[], ShardWorker],
    ) -> None:
        self._ray = ray = import_ray()
        self._queue = queue
        self._config = config
        self._device = device
        self._makers = (make_worker, make_cpu_worker)
        self._node_id = ray.get_runtime_context().get_node_id()
        self._placements = self._places(alive_nodes(), may_grow=may_grow("GPU"))
        node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(self._node_id, soft=True)
        # Restarted by Ray, unlike workers: it holds nothing that has to be true.
        board_class = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=node)(Board)
        self._board = board_class.remote()
        self._metrics = RunMetrics()
        self._starting: dict[Any, _Worker] = {}
        self._idle: list[_Worker] = []
        self._busy: dict[Any, _Busy] = {}
        self._leaving: set[str] = set()
        self._failed_starts = 0
        self._start_failure = ""
        self._next_start = 0.0
        self._had_failures = False
        self._look: Any = None
        self._looked = 0.0
        self._next_nodes = time.monotonic() + NODES_EVERY_S
        self._warn_at = time.monotonic() + NO_WORKER_WARNING_S

    def run(self) -> Iterator[Event]:
        """Yield events until no shard is left."""
        most = sum(placement.num_workers for placement in self._placements)
        log.info("waiting for the first of %d workers to load the model", min(most, len(self._queue)))
        try:
            while self._queue or self._busy:
                self._start_workers()
                self._lease()
                done, _ = self._ray.wait([*self._starting, *self._busy], num_returns=1, timeout=POLL_S)
                for reference in done:
                    if reference in self._starting:
                        self._on_started(reference)
                    elif reference in self._busy:  # or another has made its shard since
                        yield from self._collect(reference)
                yield from self._look_at_board()
                self._warn_if_no_worker()
                self._look_at_nodes()
        finally:
            for worker in self._workers():
                self._ray.kill(worker.actor)
            self._ray.kill(self._board)

    def _workers(self) -> list[_Worker]:
        """Return all of them."""
        return [*self._starting.values(), *self._idle, *(busy.worker for busy in self._busy.values())]

    def _lease(self) -> None:
        """Give those without work a shard, if there is one for them."""
        while self._idle:
            lease = self._queue.lease()
            if lease is None:
                return
            worker = self._idle.pop()
            self._busy[worker.actor.work.remote(lease)] = _Busy(worker, lease)

    def _places(self, nodes: Sequence[Node], *, may_grow: bool) -> list[Placement]:
        machines = [Machine(cpus=node.cpus, gpus=node.gpus) for node in nodes if not node.is_leaving]
        return place_workers(self._config, self._device, machines, may_grow=may_grow)

    def _look_at_nodes(self) -> None:
        """Use machines that have arrived, and give nothing new to those that leave.

        Raises:
            WorkerError: Ray has died on this machine, and workers are awaited: they would never come.
        """
        now = time.monotonic()
        if now < self._next_nodes:
            return
        self._next_nodes = now + NODES_EVERY_S
        nodes = alive_nodes()
        if self._starting and all(node.id != self._node_id for node in nodes):
            raise WorkerError("Ray's process on this machine has died; the same command goes on from here")
        leaving = {node.id for node in nodes if node.is_leaving} - self._leaving
        if leaving:
            log.info("%d machines are leaving; their workers get no further shards", len(leaving))
        self._leaving |= leaving
        for worker in [worker for worker in self._idle if worker.node_id in self._leaving]:
            self._idle.remove(worker)
            self._ray.kill(worker.actor)
        places = self._places(nodes, may_grow=True)
        # Of the same shapes, or the last GPU to leave would have CPUs take its place without a word.
        if [place.shape for place in places] == [place.shape for place in self._placements]:
            self._placements = places
        states = {"starting": len(self._starting), "idle": len(self._idle), "busy": len(self._busy)}
        self._metrics.look(states, num_waiting=len(self._queue))

    def _warn_if_no_worker(self) -> None:
        """Say once that no worker has started, if that takes suspiciously long."""
        if self._warn_at and time.monotonic() > self._warn_at:
            self._warn_at = 0.0
            log.warning(
                "no worker has started for %g s: are CPUs or GPUs of the cluster free?", NO_WORKER_WARNING_S
            )

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
        there = Counter(worker.shape for worker in self._workers())
        useful = len(self._queue) + len(self._busy) - there.total()
        for shape, placement in enumerate(self._placements):
            number = min(useful, placement.num_workers - there[shape])
            for _ in range(number):
                worker = _Worker(self._new_actor(shape, placement), shape)
                self._starting[worker.actor.start.remote(self._had_failures)] = worker
            useful -= max(0, number)

    def _new_actor(self, shape: int, placement: Placement) -> Any:
        """Return a handle of an actor that Ray places where there is room, now or later."""
        actor_class = self._ray.remote(
            num_cpus=self._config.threads_per_worker,
            num_gpus=placement.gpus_per_worker,
            max_restarts=0,
            max_task_retries=0,
        )(Actor)
        return actor_class.remote(self._makers[shape], self._board)

    def _on_started(self, reference: Any) -> None:
        """Take in an actor that has loaded its model, or note that it could not."""
        worker = self._starting.pop(reference)
        try:
            started = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SamEngineError):
                raise error.cause from error
            reason = describe_error(error.cause) if error.cause else last_line(error)
        except self._ray.exceptions.RayError as error:
            if getattr(error, "preempted", False):
                return
            reason = f"its process died: {last_line(error)}"
        else:
            log.debug("a worker is ready on %s", started.device_name)
            self._failed_starts = 0
            self._warn_at = 0.0
            worker.node_id = started.node_id
            self._idle.append(worker)
            return
        self._ray.kill(worker.actor)
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
            answer = Failure(last_line(error), None)
        except self._ray.exceptions.RayError as error:
            # Dead or unreachable; perhaps still writing, which is safe: publishing is exclusive.
            log.info("shard %d: Ray says: %s", busy.lease.shard.index, last_line(error))
            if getattr(error, "preempted", False) or busy.worker.node_id in self._leaving:
                self._on_preempted(busy)
                return
            # It names processes and machines: not for rows, which are the same in every run.
            yield from self._on_lost(busy, "the worker died")
            return
        if isinstance(answer, ShardReport):
            self._board.forget.remote(busy.lease.number)
            self._queue.done(busy.lease)
            self._stop_others(busy.lease)
            if busy.worker.node_id in self._leaving:
                self._ray.kill(busy.worker.actor)
            else:
                self._idle.append(busy.worker)
            self._metrics.count(answer)
            yield answer
            return
        # A fresh process too: after some CUDA errors nothing works in the old one.
        self._ray.kill(busy.worker.actor)
        busy.last = answer.last
        yield from self._failed(busy, answer.reason, certain=True)

    def _stop_others(self, lease: Lease) -> None:
        """Stop whoever makes a shard that is made, and does not idle: it is the slower one of two."""
        for reference, busy in list(self._busy.items()):
            if busy.lease.shard == lease.shard:
                del self._busy[reference]
                self._ray.kill(busy.worker.actor)
                self._board.forget.remote(busy.lease.number)

    def _on_preempted(self, busy: _Busy) -> None:
        """Put a shard back whose worker went with its machine."""
        log.info("shard %d: its worker's machine has left; another makes it", busy.lease.shard.index)
        self._ray.kill(busy.worker.actor)
        self._board.forget.remote(busy.lease.number)
        self._queue.give_back(busy.lease)
        self._metrics.lose("preempted")

    def _on_lost(
        self, busy: _Busy, reason: str, status: ImageStatus = ImageStatus.WORKER_CRASH
    ) -> Iterator[Event]:
        """Let go of an actor that is dead or hangs, and blame the image in hand if it is certain."""
        self._ray.kill(busy.worker.actor)
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
        self._metrics.lose("failed")
        self._board.forget.remote(busy.lease.number)
        given_up = self._queue.fail(busy.lease, reason, last=busy.last, certain=certain, status=status)
        if given_up is not None:
            self._metrics.count(given_up)
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
                self._queue.heard(busy.lease, progress)
                yield progress
            elif now - busy.heard > self._config.shard_timeout_s:
                del self._busy[reference]
                reason = f"no sign of life for {self._config.shard_timeout_s:g} s (executor.shard_timeout_s)"
                yield from self._on_lost(busy, reason, ImageStatus.TIMEOUT)
