"""How many workers a cluster holds, and of which shapes."""

from itertools import product

import pytest

from sam_engine.annotation.placement import Machine, place_workers
from sam_engine.config import ExecutorConfig
from sam_engine.errors import ConfigError


def place(device, *machines, may_grow=False, **settings):
    """Return number, share of a GPU and device of each shape; machines are (CPUs, GPUs)."""
    config = ExecutorConfig(**{"threads_per_worker": 2, **settings})
    nodes = [Machine(cpus=cpus, gpus=gpus) for cpus, gpus in machines]
    placements = place_workers(config, device, nodes, may_grow=may_grow)
    return [(each.num_workers, each.gpus_per_worker, each.device) for each in placements]


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
    assert place(device, (cpus, gpus), num_workers=asked) == [(*expected, device)]


def test_every_worker_finds_room_on_a_gpu():
    """For up to 8 GPUs and 64 workers: as Ray counts, in ten thousandths of a GPU and never across two."""
    without_room = []
    for gpus, workers in product(range(1, 9), range(1, 65)):
        config = ExecutorConfig(threads_per_worker=1, num_workers=workers)
        share = place_workers(config, "auto", [Machine(cpus=64, gpus=gpus)])[0].gpus_per_worker
        each = 10_000 // int(share * 10_000 + 0.5)
        if not workers <= gpus * each <= gpus * -(-workers // gpus):
            without_room.append((gpus, workers, share))

    assert without_room == []


def test_cuda_without_a_gpu_is_refused():
    """It does not fall back to the CPU, where a run would take a hundred times as long."""
    with pytest.raises(ConfigError, match=r"model.device is cuda, but Ray finds no GPU"):
        place("cuda", (8, 0))


@pytest.mark.parametrize(
    ("device", "machines", "expected"),
    [
        pytest.param("cpu", [(3, 0), (5, 0)], 3, id="no-worker-on-cores-of-two-machines"),
        pytest.param("auto", [(8, 2), (16, 4)], 6, id="gpus-of-all-machines"),
        pytest.param("auto", [(2, 4), (8, 1)], 2, id="a-gpu-without-cores-is-no-place"),
    ],
)
def test_machines_of_unequal_sizes_are_filled_each(device, machines, expected):
    """A worker is on one machine: what is left over on two of them makes none."""
    [(num_workers, _, _)] = place(device, *machines)

    assert num_workers == expected


def test_workers_on_cpus_stand_beside_those_on_gpus():
    """They reserve no GPU, and their model is told to leave it alone."""
    assert place("auto", (8, 2), cpu_workers=3) == [(2, 1.0, "auto"), (3, 0, "cpu")]


def test_workers_on_cpus_are_not_for_a_run_on_one_kind_of_device():
    """Who says cuda wants no masks of a CPU among them."""
    with pytest.raises(ConfigError, match=r"executor.cpu_workers is for model.device=auto, got cuda"):
        place("cuda", (8, 2), cpu_workers=3)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_gpus_that_would_come_are_waited_for(device):
    """A cluster that grows on demand may begin without one."""
    assert place(device, (4, 0), num_workers=8, may_grow=True) == [(8, 1.0, device)]
