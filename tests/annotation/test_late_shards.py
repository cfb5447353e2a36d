"""The end of a run: nobody waits for a slow worker. The real rules, on a clock that only counts."""

import heapq
import random
from dataclasses import dataclass
from itertools import count

import numpy as np
import pytest

from sam_engine.annotation.leases import Lease, ShardQueue
from sam_engine.structures import Shard, ShardProgress

START_S = 60.0
"""Until a lost worker has a successor that has loaded the model."""


class Clock:
    """Seconds since the run began."""

    now = 0.0

    def __call__(self):
        return self.now


@dataclass(eq=False)
class Worker:
    """Who works, how slowly, and on what."""

    slowness: float
    lease: Lease | None = None
    began: float = 0.0
    turn: int = 0
    """Of what it does: an event of an earlier turn is about work that was taken from it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a simulated run."""

    efficiency: float
    """Work / (workers x makespan)."""
    makespan_s: float
    num_lost: int
    times_made: dict[int, int]


def simulate(num_shards, *, num_workers=64, num_slow=1, images=500, takes_over=True, seed=0):
    """Run shards with the image times of the issue; a worker is lost every hour.

    Image times are Pareto, alpha 1.5, cut at 50 medians; the median is a second.
    """
    drawn = np.random.default_rng(seed).pareto(1.5, (num_shards, images)) + 1
    done_after = np.cumsum(np.minimum(drawn / 2 ** (1 / 1.5), 50.0), axis=1)
    shards = [Shard(index=i, start=i * images, stop=(i + 1) * images) for i in range(num_shards)]
    clock, dice, order = Clock(), random.Random(seed), count()
    queue = ShardQueue(shards, 3, clock)
    workers = [Worker(5.0 if number < num_slow else 1.0) for number in range(num_workers)]
    events = [(0.0, next(order), worker, 0) for worker in workers]
    events.append((3600.0, next(order), None, 0))
    times_made, lost, idle = {}, 0, []

    def number_done(worker):
        passed = (clock.now - worker.began) / worker.slowness
        return int(np.searchsorted(done_after[worker.lease.shard.index], passed, side="right"))

    def begin(worker, lease):
        worker.lease, worker.began, worker.turn = lease, clock.now, worker.turn + 1
        ends = clock.now + done_after[lease.shard.index, -1] * worker.slowness
        heapq.heappush(events, (ends, next(order), worker, worker.turn))

    def busy():
        return [worker for worker in workers if worker.lease]

    heapq.heapify(events)
    while len(times_made) < num_shards:
        clock.now, _, worker, turn = heapq.heappop(events)
        if worker is None:  # one is lost
            victim = dice.choice(workers)
            if victim in idle:
                idle.remove(victim)
            if victim.lease:
                queue.fail(victim.lease, "the worker died", last=None, certain=False)
            victim.lease, victim.turn, lost = None, victim.turn + 1, lost + 1
            heapq.heappush(events, (clock.now + START_S, next(order), victim, victim.turn))
            heapq.heappush(events, (clock.now + 3600.0, next(order), None, 0))
        elif turn == worker.turn:
            if worker.lease:
                index = worker.lease.shard.index
                queue.done(worker.lease)
                times_made[index] = times_made.get(index, 0) + 1
                for rival in busy():
                    if rival is not worker and rival.lease.shard.index == index:
                        rival.lease, rival.turn = None, rival.turn + 1
                        heapq.heappush(events, (clock.now + START_S, next(order), rival, rival.turn))
            worker.lease = None
            idle.append(worker)
        if not queue:  # as heard every half second, in a run
            for each in busy():
                progress = ShardProgress(
                    shard=each.lease.shard, image_id=None, num_done=number_done(each), num_masks=0
                )
                queue.heard(each.lease, progress)
        while idle and (queue or takes_over):
            lease = queue.lease()
            if lease is None:
                break
            begin(idle.pop(), lease)
    work = float(done_after[:, -1].sum())
    return Outcome(
        efficiency=work / (num_workers * clock.now),
        makespan_s=clock.now,
        num_lost=lost,
        times_made=times_made,
    )


def test_a_long_run_keeps_its_workers_busy():
    """64 workers, 6,400 shards, one worker five times as slow, one lost an hour: 97 % of the time is work."""
    outcome = simulate(6400, seed=1)  # with which the rule decides: 95.1 % without it

    assert outcome.num_lost >= 20
    assert set(outcome.times_made.values()) == {1}
    assert outcome.efficiency >= 0.97, outcome


def test_a_slow_worker_does_not_hold_the_end():
    """What it began last is begun anew by another; without that rule, all would wait for it."""
    with_rule, without = (simulate(200, takes_over=takes_over) for takes_over in (True, False))

    assert with_rule.makespan_s < 0.75 * without.makespan_s


SHARDS = [Shard(index=index, start=10 * index, stop=10 * index + 10) for index in range(3)]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def late(clock):
    """Return a queue whose first shard took 10 s, and the leases of two others that are out since then."""
    queue = ShardQueue(SHARDS, max_attempts=3, clock=clock)
    leases = [queue.lease() for _ in SHARDS]
    clock.now = 10.0
    queue.done(leases[0])
    return queue, leases[1:]


def progress(lease, num_done):
    return ShardProgress(shard=lease.shard, image_id=None, num_done=num_done, num_masks=0)


def test_the_shard_that_would_be_done_last_is_begun_anew(late):
    """One has done 8 of 10 images, the other 4: the latter needs 15 s more, a newcomer 10."""
    queue, leases = late
    for lease, num_done in zip(leases, (8, 4), strict=True):
        queue.heard(lease, progress(lease, num_done))

    assert [queue.lease().shard, queue.lease()] == [SHARDS[2], None]


def test_a_shard_that_will_be_done_soon_is_left_alone(late):
    """A newcomer would come later."""
    queue, leases = late
    for lease in leases:
        queue.heard(lease, progress(lease, 6))

    assert queue.lease() is None


def test_nobody_is_late_before_a_shard_was_done():
    """How long one takes is not known then."""
    queue = ShardQueue(SHARDS[:1], max_attempts=3)
    queue.lease()

    assert queue.lease() is None


@pytest.mark.parametrize("which", [0, 1])
def test_a_failure_leaves_the_shard_to_the_other_worker(late, clock, which):
    """It is put back only when both have failed."""
    queue, leases = late
    clock.now = 30.0
    queue.done(leases[1])
    both = [leases[0], queue.lease()]
    queue.fail(both.pop(which), "died", last=None, certain=False)
    assert len(queue) == 0

    queue.fail(both.pop(), "died", last=None, certain=False)
    assert queue.lease().shard == SHARDS[1]


def test_two_that_die_of_the_same_image_at_once_cost_one_attempt(late, clock):
    """Neither was careful; the attempts that are left suffice to find the image."""
    queue, leases = late
    clock.now = 30.0
    queue.done(leases[1])
    for lease in [leases[0], queue.lease()]:
        assert queue.fail(lease, "died", last=None, certain=False) is None
    for _ in range(2):
        lease = queue.lease()
        last = ShardProgress(shard=lease.shard, image_id=16, num_done=6, num_masks=0)
        assert queue.fail(lease, "died", last=last, certain=True) is None

    assert list(queue.lease().verdicts) == [16]


def test_a_shard_is_not_given_up_while_somebody_has_it(clock):
    """Its last attempt may succeed."""
    queue = ShardQueue(SHARDS[:2], max_attempts=1, clock=clock)
    first, second = queue.lease(), queue.lease()
    clock.now = 10.0
    queue.done(first)
    clock.now = 100.0
    third = queue.lease()

    assert third.shard == second.shard
    assert queue.fail(second, "died", last=None, certain=False) is None
    assert queue.fail(third, "died", last=None, certain=False).error.startswith("died")


def test_what_a_machine_took_with_it_costs_no_attempt():
    """Pre-emption is nobody's fault: no matter how often, the shard comes back as it was."""
    queue = ShardQueue(SHARDS[:1], max_attempts=1)
    for _ in range(50):
        lease = queue.lease()
        queue.give_back(lease)

    assert (len(queue), lease.careful, lease.number) == (1, False, 50)
