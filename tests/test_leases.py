"""The rules of leasing: who gets which shard, and when an image or a shard is given up."""

import pytest

from sam_engine.config import ExecutorConfig
from sam_engine.errors import ConfigError
from sam_engine.leases import Placement, ShardQueue, Verdict, place_workers
from sam_engine.structures import ImageStatus, Shard

SHARDS = [Shard(index=index, start=10 * index, stop=10 * index + 10) for index in range(3)]


def test_shards_are_leased_in_order_and_once():
    """Nobody works on a shard that is out."""
    queue = ShardQueue(SHARDS, max_attempts=3)

    assert [queue.lease().shard for _ in SHARDS] == SHARDS
    assert not queue


def test_failed_shard_is_next_and_done_carefully():
    """It goes to the front, so that trouble shows early; other shards stay fast."""
    queue = ShardQueue(SHARDS, max_attempts=3)
    queue.fail(queue.lease(), "died", suspect=None)

    leases = [queue.lease(), queue.lease()]

    assert [(lease.shard.index, lease.careful) for lease in leases] == [(0, True), (1, False)]


def test_image_in_hand_at_two_failures_is_not_touched_again():
    """Its neighbours are: the shard goes on with a verdict on that image alone."""
    queue = ShardQueue(SHARDS, max_attempts=3)
    queue.fail(queue.lease(), "died", suspect=None)
    queue.fail(queue.lease(), "died", suspect=4)
    queue.fail(queue.lease(), "died again", suspect=4)

    lease = queue.lease()

    assert lease.verdicts == {4: Verdict(status=ImageStatus.WORKER_CRASH, reason="died again")}
    assert lease.careful


def test_two_different_images_are_a_coincidence():
    """A worker killed from outside, twice, costs no image its masks."""
    queue = ShardQueue(SHARDS, max_attempts=4)
    queue.fail(queue.lease(), "killed", suspect=4)
    queue.fail(queue.lease(), "killed", suspect=5)

    assert queue.lease().verdicts == {}


def test_shard_is_given_up_after_its_attempts():
    """The report names the last reason, and the shard does not come back."""
    queue = ShardQueue(SHARDS[:1], max_attempts=2)

    assert queue.fail(queue.lease(), "first", suspect=None) is None
    report = queue.fail(queue.lease(), "second", suspect=None)

    assert report is not None
    assert report.error == "second (after 2 attempts)"
    assert not queue


def test_every_verdict_earns_new_attempts():
    """A shard of many bad images is finished, however many they are."""
    queue = ShardQueue(SHARDS[:1], max_attempts=3)
    for image_id in range(5):
        for _ in range(2):
            assert queue.fail(queue.lease(), "died", suspect=image_id) is None

    assert sorted(queue.lease().verdicts) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("device", "cpus", "gpus", "asked", "expected"),
    [
        pytest.param("auto", 8, 0, None, (4, 0), id="as-many-as-fit-the-cores"),
        pytest.param("auto", 1, 0, None, (1, 0), id="one-at-least"),
        pytest.param("auto", 8, 2, None, (2, 1), id="one-per-gpu"),
        pytest.param("cuda", 8, 2, 4, (4, 0.5), id="shared-gpus"),
        pytest.param("cuda", 8, 4, 2, (2, 1), id="fewer-than-gpus"),
        pytest.param("cpu", 8, 2, None, (4, 0), id="gpus-left-alone"),
        pytest.param("cuda:1", 8, 2, None, (1, 0), id="one-gpu-by-number"),
        pytest.param("cpu", 2, 0, 3, (3, 0), id="asked-for-is-obeyed"),
    ],
)
def test_workers_fit_the_machines(device, cpus, gpus, asked, expected):
    """One worker for each GPU, or as many as have their threads; a number given is obeyed."""
    config = ExecutorConfig(threads_per_worker=2, num_workers=asked)
    workers, share = expected

    placement = place_workers(config, device, cpus=cpus, gpus=gpus)

    assert placement == Placement(num_workers=workers, gpus_per_worker=share)


def test_cuda_without_a_gpu_is_refused():
    """It does not fall back to the CPU, where a run would take a hundred times as long."""
    with pytest.raises(ConfigError, match=r"model.device is cuda, but Ray finds no GPU"):
        place_workers(ExecutorConfig(), "cuda", cpus=8, gpus=0)
