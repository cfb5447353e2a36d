"""What Ray's scheduling costs: python -m tools.bench.scheduling."""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Generator, Sequence

from sam_engine.__main__ import called
from sam_engine.annotation.leases import Event, Lease, ShardWorker
from sam_engine.annotation.run_shards import run_shards
from sam_engine.cluster.ray_session import ray_session
from sam_engine.config import ExecutorConfig
from sam_engine.dataset.manifest import cut_shards
from sam_engine.structures import Shard, ShardProgress, ShardReport

from ..command import command_line

DESCRIPTION = """Time shards of a model that sleeps, on Ray's workers and in one process.

From the beginning of the first shard to the end of the last one: starting Ray and loading a model come
before. The overhead is what Ray's workers took longer than the process would have, had it been as many.
"""


class SleepingWorker:
    """A `ShardWorker` whose images take the same time, and no CPU."""

    device_name = "none"

    def __init__(self, image_s: float) -> None:
        self.image_s = image_s

    def probe(self) -> None:
        """It works."""

    def work(self, lease: Lease) -> Generator[Event, None, None]:
        """Say what a real one says, and sleep."""
        shard, began = lease.shard, time.time()
        for number, image_id in enumerate(range(shard.start, shard.stop)):
            yield ShardProgress(shard=shard, image_id=image_id, num_done=number, num_masks=0)
            time.sleep(self.image_s)
        yield ShardProgress(shard=shard, image_id=None, num_done=shard.num_images, num_masks=0)
        times = {"began": began, "ended": time.time()}
        yield ShardReport(shard=shard, statuses={"ok": shard.num_images}, stage_seconds=times)

    def close(self) -> None:
        """There is nothing to let go of."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each repeat, and the median."""
    parser = argparse.ArgumentParser(
        prog=called("tools.bench.scheduling"),
        description=DESCRIPTION,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--shard-size", type=int, default=20)
    parser.add_argument("--image-s", type=float, default=0.1, help="seconds that an image takes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    shards = cut_shards(options.images, options.shard_size)
    make_worker = functools.partial(SleepingWorker, options.image_s)
    ray = ExecutorConfig(name="ray", num_workers=options.workers)
    overheads = []
    with ray_session(ray):
        for _ in range(options.repeats):
            inline_s, _ = seconds_of(shards, make_worker, ExecutorConfig(name="inline"))
            ray_s, starts_s = seconds_of(shards, make_worker, ray)
            overheads.append(ray_s * options.workers / inline_s - 1)
            last_s = starts_s[min(options.workers, len(starts_s)) - 1]
            sys.stdout.write(
                f"inline {inline_s:.2f} s, Ray {ray_s:.2f} s (its last worker began at {last_s:.2f} s): "
                f"overhead {overheads[-1]:.2%}\n"
            )
            sys.stdout.flush()
    sys.stdout.write(f"median overhead {statistics.median(overheads):.2%}\n")
    return 0


def seconds_of(
    shards: Sequence[Shard], make_worker: Callable[[], ShardWorker], config: ExecutorConfig
) -> tuple[float, list[float]]:
    """Return the time from the beginning of the first shard to the end of the last one, as workers saw it.

    And when each shard was begun after the first, in order; both in seconds.
    """
    events = run_shards(shards, make_worker, config, device="cpu")
    times = [event.stage_seconds for event in events if isinstance(event, ShardReport)]
    first = min(each["began"] for each in times)
    return max(each["ended"] for each in times) - first, sorted(each["began"] - first for each in times)


if __name__ == "__main__":
    command_line(main)
