"""Who works on which shard, and what to do when that goes wrong. No Ray, no torch: rules only.

A shard is leased to one worker at a time. When none is left that nobody has, a worker without work begins the
one that would be done last anew; the first to publish wins, which exclusive creation makes safe. If both
fail, that is one attempt: neither could learn from the other.

After a first failure a shard is done *carefully*: one image at a time, each named before it is touched, so
that a second death has a name. An image that was in hand at two failures of which the cause is certain to be
it becomes a row that says so; its neighbours are kept.

What fails may be the machine instead. So a worker that follows a failed one has to show that it works before
it gets a lease (`ShardWorker.probe`), and when one after another fails without finishing a single image, the
run stops: otherwise a broken driver would turn a whole dataset into rows that blame the images.
"""

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sam_engine.errors import WorkerError
from sam_engine.structures import ImageStatus, Shard, ShardProgress, ShardReport

MAX_BARREN_FAILURES = 20
"""Failures in a row, over all shards, before which the worker finished no image; then the run stops. An image
is condemned by two, so ten bad ones may follow each other."""
NUM_PACES = 101
"""Shards done last whose seconds an image are taken for those of the next."""

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
    """Since the last verdict; of two workers that had the shard at once, one."""
    num_leases: int = 0
    """Of all shards when the last of them was counted: what was leased before failed together with it."""
    suspicions: Counter[int] = field(default_factory=Counter)
    verdicts: dict[int, Verdict] = field(default_factory=dict)


@dataclass(slots=True)
class _Held:
    """A lease that is out."""

    lease: Lease
    since: float
    num_done: int = 0
    """Images, as far as was heard."""


class ShardQueue:
    """Shards that nobody works on, in order; those that failed come first. And those that are worked on."""

    def __init__(
        self, shards: Iterable[Shard], max_attempts: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the open shards. One that fails ``max_attempts`` times without a verdict is given up."""
        self._waiting = deque(shards)
        self._max_attempts = max_attempts
        self._clock = clock
        self._held: dict[int, list[_Held]] = {}
        self._paces: deque[float] = deque(maxlen=NUM_PACES)
        self._histories: dict[int, _History] = {}
        self._num_leases = 0
        self._barren_failures = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def lease(self) -> Lease | None:
        """Take out the next shard; when none is left, one that another worker has and is late with.

        Returns:
            None if nobody is late.
        """
        shard = self._waiting.popleft() if self._waiting else self._late()
        if shard is None:
            return None
        self._num_leases += 1
        history = self._histories.get(shard.index)
        lease = Lease(
            shard=shard,
            number=self._num_leases,
            careful=history is not None,
            verdicts={} if history is None else dict(history.verdicts),
        )
        self._held.setdefault(shard.index, []).append(_Held(lease, self._clock()))
        return lease

    def heard(self, lease: Lease, progress: ShardProgress) -> None:
        """Take note of how far a worker is, by which it is judged late."""
        for held in self._held.get(lease.shard.index, ()):
            if held.lease.number == lease.number:
                held.num_done = progress.num_done

    def done(self, lease: Lease) -> None:
        """Take note that a shard was published: whoever else has it may stop."""
        shard = lease.shard
        for held in self._held.pop(shard.index, ()):
            if held.lease.number == lease.number:
                self._paces.append((self._clock() - held.since) / shard.num_images)
        self._histories.pop(shard.index, None)
        if len(lease.verdicts) < shard.num_images:
            self._barren_failures = 0

    def give_back(self, lease: Lease) -> None:
        """Put a shard back that was lost with its machine: pre-empted, which is nobody's fault."""
        if not self._is_held_after(lease):
            self._waiting.appendleft(lease.shard)

    def fail(
        self,
        lease: Lease,
        reason: str,
        *,
        last: ShardProgress | None,
        certain: bool,
        status: ImageStatus = ImageStatus.WORKER_CRASH,
    ) -> ShardReport | None:
        """Take note of a failure: the shard is put back unless another worker has it, or given up.

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
        if lease.number > history.num_leases:
            history.num_failures += 1
            history.num_leases = self._num_leases
        suspect = last.image_id if last is not None and last.is_alone and certain else None
        # A worker that fails again after passing an image over does not fail because of it.
        if suspect is not None and suspect not in history.verdicts:
            history.suspicions[suspect] += 1
            if history.suspicions[suspect] > 1:
                history.verdicts[suspect] = Verdict(status=status, reason=reason)
                history.num_failures = 0
        if self._is_held_after(lease):
            return None
        if history.num_failures >= self._max_attempts:
            return ShardReport(shard=shard, error=f"{reason} (after {self._max_attempts} attempts)")
        self._waiting.appendleft(shard)
        return None

    def _is_held_after(self, lease: Lease) -> bool:
        """Drop a lease; return whether another worker has its shard."""
        held = [each for each in self._held.pop(lease.shard.index, ()) if each.lease.number != lease.number]
        if held:
            self._held[lease.shard.index] = held
        return bool(held)

    def _late(self) -> Shard | None:
        """Return the shard that will be done last, if a worker that begins it now would be done before.

        Expected is that each goes on at its own pace, and that the newcomer has the median one of late.
        """
        if not self._paces:
            return None
        now, usual = self._clock(), statistics.median(self._paces)
        latest, shard = 0.0, None
        for held in self._held.values():
            if len(held) > 1:  # two are enough: what delays both is the images
                continue
            [only] = held
            its = only.lease.shard
            elapsed = now - only.since
            pace = elapsed / only.num_done if only.num_done else max(usual, elapsed)
            left = pace * (its.num_images - only.num_done)
            if left > max(latest, usual * its.num_images):
                latest, shard = left, its
        return shard

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
