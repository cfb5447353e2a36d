"""Shard workers without a model, and without torch: processes that import this start at once."""

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path

from sam_engine.annotation.checkup import WorkerCheck
from sam_engine.annotation.leases import Lease
from sam_engine.errors import ConfigError, StorageError
from sam_engine.structures import ShardProgress, ShardReport


class CountingWorker:
    """A `ShardWorker` without a model: counts images, and dies, raises or hangs where it is told to."""

    device_name = "none"

    def __init__(self, log: Path, trouble: Mapping[int, str]) -> None:
        """Take where images are noted, one line each, and what happens at some of them, by id."""
        self.log = log
        self.trouble = trouble

    def probe(self) -> None:
        """Fail if the machine is sick, which images can make it."""
        if self.log.with_suffix(".sick").exists():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def work(self, lease: Lease) -> Generator[ShardProgress | ShardReport, None, None]:
        """Count, unless an image is in trouble: see `suffer`. Image -1 is publishing."""
        shard, statuses = lease.shard, Counter[str]()
        for number, image_id in enumerate(range(shard.start, shard.stop)):
            yield ShardProgress(shard=shard, image_id=image_id, num_done=number, num_masks=number)
            if image_id in lease.verdicts:
                statuses[lease.verdicts[image_id].status] += 1
                continue
            with self.log.open("a") as file:
                file.write(f"{image_id}\n")
            self.suffer(self.trouble.get(image_id, ""))
            statuses["ok"] += 1
        yield ShardProgress(shard=shard, image_id=None, num_done=shard.num_images, num_masks=shard.num_images)
        self.suffer(self.trouble.get(-1, ""))
        yield ShardReport(shard=shard, statuses=dict(statuses), num_masks=shard.num_images, device="none")

    def close(self) -> None:
        """There is nothing to let go of."""

    def suffer(self, trouble: str) -> None:
        """Do what happens at an image."""
        if trouble == "die-after-3-refusals":
            while len(list(self.log.parent.glob("*.refused"))) < 3:
                time.sleep(0.05)
            time.sleep(1)  # for the driver to hear of them first
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "die" or (trouble == "die-once" and first_time(self.log.with_suffix(".died"))):
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "sicken":
            self.log.with_suffix(".sick").touch()
        if trouble in ("raise", "sicken"):
            raise IndexError("no such thing")
        if trouble == "storage":
            raise StorageError("/out: No space left on device")
        if trouble == "hang":
            time.sleep(3600)


def first_time(path: Path) -> bool:
    """Return whether nobody has asked for this path before, in any process."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def load_once(log: Path) -> CountingWorker:
    """Return a worker the first time, which dies when three others had no room; others never have."""
    if first_time(log.with_suffix(".loaded")):
        return CountingWorker(log, {1: "die-after-3-refusals"})
    log.with_name(f"{os.getpid()}.refused").touch()
    raise MemoryError("no room for another model")


def fail_to_load() -> CountingWorker:
    """Raise, as a worker's factory does on a machine without memory."""
    raise RuntimeError("the weights are from another planet")


def die_while_loading() -> CountingWorker:
    """End the process, as the kernel does to one that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def refuse_to_load() -> CountingWorker:
    """Find a setting that this machine cannot follow."""
    raise ConfigError("model.device is 'cuda', but torch finds no CUDA device here")


def check_machine(number: int) -> WorkerCheck:
    """Be what tries a machine; an odd one kills its process."""
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return WorkerCheck(host=socket.gethostname(), num_images=number)
