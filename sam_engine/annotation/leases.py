"""Who works on which shard, and what to do when that goes wrong. No Ray, no torch: rules only.

A shard is leased to one worker at a time. After a first failure it is done *carefully*: one image at a time,
each named before it is touched, so that a second death has a name. An image that was in hand at two failures
of which the cause is certain to be it becomes a row that says so; its neighbours are kept.

What fails may be the machine instead. So a worker that follows a failed one has to show that it works before
it gets a lease (`ShardWorker.probe`), and when one after another fails without finishing a single image, the
run stops: otherwise a broken driver would turn a whole dataset into rows that blame the images.
"""

from collections import Counter, deque
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sam_engine.config import ExecutorConfig
from sam_engine.errors import ConfigError, WorkerError
from sam_engine.structures import ImageStatus, Shard, ShardProgress, ShardReport

MAX_BARREN_FAILURES = 20
"""Failures in a row, over all shards, before which the worker finished no image; then the run stops. An image
is condemned by two, so ten bad ones may follow each other."""

Event = ShardProgress | ShardReport
"""What is heard of a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why an image is not tried again."""

    status: ImageStatus
    reason: str
    """One line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A shard for one worker, once."""

    shard: Shard
    number: int = 0
    """Of this lease in this run: what was said under another one of the same shard is not about this one."""
    careful: bool = False
    """Touch one image at a time and name it before."""
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)
    """Images not to touch, by id: they get this as their row."""


class ShardWorker(Protocol):
    """Makes whole shards. It owns a model, so there is one for each process."""

    @property
    def device_name(self) -> str:
        """What the model runs on."""

    def probe(self) -> None:
        """Do the least that shows that it works; raise otherwise."""

    def work(self, lease: Lease) -> Generator[Event, None, None]:
        """Yield progress before each image and before publishing and, when that is done, the report."""

    def close(self) -> None:
        """Let go of what the process holds for it."""


@dataclass(slots=True)
class _History:
    """What went wrong with one shard so far."""

    num_failures: int = 0
    """Since the last verdict."""
    suspicions: Counter[int] = field(default_factory=Counter)
    verdicts: dict[int, Verdict] = field(default_factory=dict)


class ShardQueue:
    """Shards that nobody works on, in order; those that failed come first."""

    def __init__(self, shards: Iterable[Shard], max_attempts: int) -> None:
        """Take the open shards. One that fails ``max_attempts`` times without a verdict is given up."""
        self._waiting = deque(shards)
        self._max_attempts = max_attempts
        self._histories: dict[int, _History] = {}
        self._num_leases = 0
        self._barren_failures = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def lease(self) -> Lease:
        """Take out the next shard."""
        shard = self._waiting.popleft()
        self._num_leases += 1
        history = self._histories.get(shard.index)
        if history is None:
            return Lease(shard=shard, number=self._num_leases)
        return Lease(shard=shard, number=self._num_leases, careful=True, verdicts=dict(history.verdicts))

    def done(self, lease: Lease) -> None:
        """Take note that a shard was published."""
        self._histories.pop(lease.shard.index, None)
        if len(lease.verdicts) < lease.shard.num_images:
            self._barren_failures = 0

    def fail(
        self,
        lease: Lease,
        reason: str,
        *,
        last: ShardProgress | None,
        certain: bool,
        status: ImageStatus = ImageStatus.WORKER_CRASH,
    ) -> ShardReport | None:
        """Take note of a failure: the shard is put back, or given up.

        Args:
            lease: What failed.
            reason: One line.
            last: What the worker said last under this lease; None if nothing came through.
            certain: The cause is what the worker had in hand then. If that was more than one image, none of
                them is blamed: the next lease is careful, and will tell.
            status: What that image's row will say if it fails again.

        Returns:
            None, or a report with ``error`` set if the shard was given up.

        Raises:
            WorkerError: It is no longer credible that the images are at fault.
        """
        self._count_barren(lease, reason, last)
        shard = lease.shard
        history = self._histories.setdefault(shard.index, _History())
        history.num_failures += 1
        suspect = last.image_id if last is not None and last.is_alone and certain else None
        # A worker that fails again after passing an image over does not fail because of it.
        if suspect is not None and suspect not in history.verdicts:
            history.suspicions[suspect] += 1
            if history.suspicions[suspect] > 1:
                history.verdicts[suspect] = Verdict(status=status, reason=reason)
                history.num_failures = 0
        if history.num_failures >= self._max_attempts:
            return ShardReport(shard=shard, error=f"{reason} (after {self._max_attempts} attempts)")
        self._waiting.appendleft(shard)
        return None

    def _count_barren(self, lease: Lease, reason: str, last: ShardProgress | None) -> None:
        """Raise `WorkerError` if workers fail one after another without finishing an image."""
        if last is not None:
            in_hand = lease.shard.stop if last.image_id is None else last.image_id
            if last.num_done > sum(image_id < in_hand for image_id in lease.verdicts):
                self._barren_failures = 0
                return
        self._barren_failures += 1
        if self._barren_failures >= MAX_BARREN_FAILURES:
            raise WorkerError(
                f"{MAX_BARREN_FAILURES} times in a row a worker failed before it finished an image: {reason}"
            )


RAY_UNITS = 10_000
"""Of a resource: Ray counts in these. Six times a sixth, each rounded up, would be more than one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How many workers, and what each reserves."""

    num_workers: int
    gpus_per_worker: float
    """All of one GPU, or a part of one: Ray gives no worker parts of two."""


def place_workers(config: ExecutorConfig, device: str, *, cpus: int, gpus: int) -> Placement:
    """Decide how many workers a cluster holds.

    Args:
        config: ``num_workers`` is obeyed if set.
        device: auto takes GPUs where there are some; cuda needs one; cuda:N, cpu and mps reserve none.
        cpus: Of the cluster.
        gpus: Of the cluster.

    Raises:
        ConfigError: cuda without a GPU.
    """
    if device == "cuda" and not gpus:
        raise ConfigError("model.device is cuda, but Ray finds no GPU; use model.device=auto or cpu")
    if device in ("auto", "cuda") and gpus:
        workers = config.num_workers or gpus
        return Placement(num_workers=workers, gpus_per_worker=_share(-(-workers // gpus)))
    if device not in ("auto", "cpu"):
        return Placement(num_workers=config.num_workers or 1, gpus_per_worker=0)
    workers = config.num_workers or max(1, cpus // config.threads_per_worker)
    return Placement(num_workers=workers, gpus_per_worker=0)


def _share(workers_per_gpu: int) -> float:
    """Return the part of a GPU that each reserves; rounded down, because Ray rounds to the nearest."""
    return RAY_UNITS // workers_per_gpu / RAY_UNITS
