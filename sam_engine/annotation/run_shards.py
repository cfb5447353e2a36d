"""Run shards in this process or one of its own, or hand them to a pool of workers."""

import contextlib
import functools
import logging
from collections.abc import Callable, Generator, Iterator, Sequence

from sam_engine.annotation.child_worker import ChildWorker, ShardFailedError, WorkerLostError
from sam_engine.annotation.leases import Event, ShardQueue, ShardWorker
from sam_engine.annotation.ray_pool import run_on_ray
from sam_engine.config import ExecutorConfig
from sam_engine.errors import ModelLoadError, SamEngineError, describe_error
from sam_engine.structures import ImageStatus, Shard, ShardProgress

log = logging.getLogger(__name__)


def run_shards(
    shards: Sequence[Shard],
    make_worker: Callable[[], ShardWorker],
    config: ExecutorConfig,
    *,
    device: str = "auto",
    in_child: bool = False,
    by_value: bool = False,
    make_cpu_worker: Callable[[], ShardWorker] | None = None,
) -> Generator[Event, None, None]:
    """Yield the progress of all shards and one report for each, in the order they finish.

    Closing the iterator, or an exception inside it, stops the workers; shards in their hands are lost, those
    published stay.

    Args:
        shards: What to do; only these descriptions travel.
        make_worker: Builds a worker in the process that will run it. Picklable, for Ray or a child.
        config: Where and how many.
        device: The model's device; decides what a worker reserves.
        in_child: Without Ray, work in a child process, which an image may kill.
        by_value: See `ChildWorker`.
        make_cpu_worker: Builds one of ``config.cpu_workers``; None: as the others.

    Raises:
        ConfigError: The cluster has no such device, or does not answer.
        ModelLoadError: Workers cannot load the model.
        WorkerError: Workers fail at whatever they are given, or Ray itself has died.
        StorageError: A worker cannot write.
    """
    if not shards:
        return
    queue = ShardQueue(shards, config.max_shard_attempts)
    if config.name == "ray":
        yield from run_on_ray(queue, make_worker, config, device, make_cpu_worker)
        return
    if in_child:
        make_worker = functools.partial(ChildWorker, make_worker, config.shard_timeout_s, by_value=by_value)
    yield from _run_inline(queue, make_worker)


def _run_inline(queue: ShardQueue, make_worker: Callable[[], ShardWorker]) -> Iterator[Event]:
    """Do all shards with one worker; after a failure with a fresh one, as a pool would."""
    is_first = True
    while queue:
        with contextlib.closing(_make_inline(make_worker, probe=not is_first)) as worker:
            is_first = False
            while queue:
                lease, last = queue.lease(), None
                assert lease is not None
                try:
                    with contextlib.closing(worker.work(lease)) as events:
                        for event in events:
                            last = event if isinstance(event, ShardProgress) else None
                            yield event
                except SamEngineError:
                    raise
                except WorkerLostError as error:
                    # Who hangs has had the time to say with what; who dies may have died of one read ahead.
                    reason, status = str(error), error.status
                    certain = lease.careful or status is ImageStatus.TIMEOUT
                    log.warning("shard %d: %s", lease.shard.index, reason)
                except Exception as error:
                    status, certain = ImageStatus.WORKER_CRASH, True
                    reason = str(error) if isinstance(error, ShardFailedError) else describe_error(error)
                    log.warning("shard %d: %s", lease.shard.index, reason, exc_info=True)
                else:
                    queue.done(lease)
                    continue
                given_up = queue.fail(lease, reason, last=last, certain=certain, status=status)
                if given_up is not None:
                    yield given_up
                break
        del worker  # before the next one: both models at once may not fit


def _make_inline(make_worker: Callable[[], ShardWorker], *, probe: bool) -> ShardWorker:
    """Return a worker of this process.

    Raises:
        ModelLoadError: It cannot be made, or does not work.
    """
    log.info("loading the model")
    try:
        worker = make_worker()
        if probe:
            worker.probe()
    except SamEngineError:
        raise
    except Exception as error:
        raise ModelLoadError(f"the model cannot be loaded: {describe_error(error)}") from error
    return worker
