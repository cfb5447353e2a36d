"""The rules of leasing: who gets which shard, and when an image or a shard is given up."""

import pytest

from sam_engine.annotation.leases import (
    MAX_BARREN_FAILURES,
    Lease,
    ShardQueue,
    Verdict,
)
from sam_engine.errors import WorkerError
from sam_engine.structures import ImageStatus, Shard, ShardProgress

SHARDS = [Shard(index=index, start=10 * index, stop=10 * index + 10) for index in range(3)]


def fail(queue, reason="died", *, at=None, num_done=None, certain=True, **more):
    """Lease a shard and fail with an image in hand, or publishing (None). Return the report, if given up."""
    lease = queue.lease()
    done = num_done if num_done is not None else (lease.shard.stop if at is None else at) - lease.shard.start
    last = ShardProgress(shard=lease.shard, image_id=at, num_done=done, num_masks=0)
    return queue.fail(lease, reason, last=last, certain=certain, **more)


def test_shards_are_leased_in_order_and_once():
    """Nobody works on a shard that is out."""
    queue = ShardQueue(SHARDS, max_attempts=3)

    assert [queue.lease().shard for _ in SHARDS] == SHARDS
    assert not queue


def test_failed_shard_is_next_and_done_carefully():
    """It goes to the front, so that trouble shows early; other shards stay fast."""
    queue = ShardQueue(SHARDS, max_attempts=3)
    fail(queue, at=4, certain=False)

    leases = [queue.lease(), queue.lease()]

    assert [(lease.shard.index, lease.careful) for lease in leases] == [(0, True), (1, False)]


def test_every_lease_has_a_number_of_its_own():
    """What a dead worker said last is not taken for the word of its successor on the same shard."""
    queue = ShardQueue(SHARDS[:1], max_attempts=3)
    leases = []
    for _ in range(3):
        leases.append(queue.lease())
        queue.fail(leases[-1], "died", last=None, certain=False)

    assert [lease.shard for lease in leases] == 3 * SHARDS[:1]
    assert len({lease.number for lease in leases}) == 3


def test_image_in_hand_at_two_failures_is_not_touched_again():
    """Its neighbours are: the shard goes on with a verdict on that image alone."""
    queue = ShardQueue(SHARDS, max_attempts=3)
    fail(queue, at=4, certain=False)
    fail(queue, at=4)
    fail(queue, "died again", at=4)

    lease = queue.lease()

    assert lease.verdicts == {4: Verdict(status=ImageStatus.WORKER_CRASH, reason="died again")}
    assert lease.careful


def test_two_different_images_are_a_coincidence():
    """A worker killed from outside, twice, costs no image its masks."""
    queue = ShardQueue(SHARDS, max_attempts=4)
    fail(queue, "killed", at=4)
    fail(queue, "killed", at=5)

    assert queue.lease().verdicts == {}


def test_of_two_images_in_hand_none_is_blamed():
    """Either may be the cause; blamed, the wrong one would be condemned by a single failure later."""
    queue = ShardQueue(SHARDS[:1], max_attempts=3)
    lease = queue.lease()
    last = ShardProgress(shard=lease.shard, image_id=4, num_done=3, num_masks=0, is_alone=False)
    queue.fail(lease, "died", last=last, certain=True)
    fail(queue, "died", at=4)

    lease = queue.lease()

    assert (lease.careful, lease.verdicts) == (True, {})


def test_death_while_publishing_is_no_images_fault():
    """Nothing is in hand then: the shard is given up after its attempts, and no row blames its last image."""
    queue = ShardQueue(SHARDS[:1], max_attempts=3)

    assert [fail(queue, "no memory", at=None) for _ in range(2)] == [None, None]
    assert queue.lease().verdicts == {}


def test_shard_is_given_up_after_its_attempts():
    """The report names the last reason, and the shard does not come back."""
    queue = ShardQueue(SHARDS[:1], max_attempts=2)

    assert fail(queue, "first", at=3, certain=False) is None
    report = fail(queue, "second", at=4, certain=False)

    assert report is not None
    assert report.error == "second (after 2 attempts)"
    assert not queue


def test_every_verdict_earns_new_attempts():
    """A shard of many bad images is finished, however many they are."""
    queue = ShardQueue(SHARDS[:1], max_attempts=3)
    for image_id in range(5):
        for _ in range(2):
            assert fail(queue, at=image_id) is None

    assert sorted(queue.lease().verdicts) == [0, 1, 2, 3, 4]


def test_verdict_is_passed_once():
    """Who fails on passing over a condemned image fails for another reason: the attempts come to an end."""
    queue = ShardQueue(SHARDS[:1], max_attempts=3)
    reports = [fail(queue, at=9) for _ in range(5)]

    assert [report is None for report in reports] == [True, True, True, True, False]


def test_run_stops_when_no_worker_finishes_an_image():
    """A broken machine must not turn a dataset into rows that blame the images."""
    queue = ShardQueue(SHARDS, max_attempts=3)
    for number in range(MAX_BARREN_FAILURES - 1):
        fail(queue, at=number // 2)

    with pytest.raises(
        WorkerError, match="20 times in a row a worker failed before it finished an image: CUDA"
    ):
        fail(queue, "CUDA error", at=9)


def test_finished_image_is_a_sign_that_workers_work():
    """Bad images with a good one between them stop nothing, however many they are."""
    queue = ShardQueue(SHARDS[:1], max_attempts=1000)
    for _ in range(3):
        for _ in range(MAX_BARREN_FAILURES - 1):
            fail(queue, at=0, certain=False)
        fail(queue, at=1, certain=False)

    assert len(queue) == 1


@pytest.mark.parametrize(("verdicts", "expected"), [(9, True), (10, False)])
def test_published_shard_is_a_sign_if_an_image_was_touched(verdicts, expected):
    """A shard of nothing but condemned images says nothing about the workers."""
    queue = ShardQueue(SHARDS[:1], max_attempts=1000)
    for _ in range(MAX_BARREN_FAILURES - 1):
        fail(queue, at=0, certain=False)
    verdict = Verdict(status=ImageStatus.WORKER_CRASH, reason="died")
    queue.done(Lease(shard=SHARDS[1], verdicts=dict.fromkeys(range(10, 10 + verdicts), verdict)))
    works = True
    try:
        fail(queue, at=0, certain=False)
    except WorkerError:
        works = False

    assert works is expected
