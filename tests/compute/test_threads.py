"""Threads for independent pieces of work."""

import os
import re
import signal
import threading
from collections.abc import Iterator

import pytest
import torch

from sam_engine.compute.threads import dealt, map_in_threads


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch use two threads, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def mkl_threads() -> str:
    """Return how many threads MKL would use, or nothing where torch has no MKL."""
    return "".join(re.findall(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info()))


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_results_come_in_order(num_threads: int):
    """Whatever number of threads torch may use."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        assert map_in_threads(lambda x: x + 1, range(100)) == list(range(1, 101))
        assert map_in_threads(lambda x: x + 1, []) == []
        assert sorted(number for hand in dealt(10) for number in hand) == list(range(10))
        assert len(dealt(10)) == num_threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_torch_uses_one_thread_within_each():
    """Also its matrix products, whose library has a setting of its own; afterwards it is as before."""
    outside, both_are_there = mkl_threads(), threading.Barrier(2)

    def look(_: int) -> tuple[threading.Thread, int, str]:
        both_are_there.wait(timeout=30)
        return threading.current_thread(), torch.get_num_threads(), mkl_threads()

    map_in_threads(str, range(4))  # what new threads begin with is not to the point
    inside = map_in_threads(look, range(4))

    assert {number for _, number, _ in inside} == {1}
    assert {number for _, _, number in inside} <= {"", "1"}
    assert len({thread for thread, _, _ in inside} - {threading.main_thread()}) == 2
    assert (torch.get_num_threads(), mkl_threads()) == (2, outside)


@pytest.mark.usefixtures("two_threads")
def test_an_error_comes_out():
    """And torch may use as many threads as before."""
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda x: 1 // x, [1, 0, 1])

    assert torch.get_num_threads() == 2
    assert map_in_threads(str, [1, 2]) == ["1", "2"]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_threads_compute_without_gradients(mode: type):
    """They may write to tensors that were made in inference mode, if that is where they are called from."""
    weight = torch.nn.Parameter(torch.ones(3))
    with mode():
        memory = torch.zeros(4, 3)
        map_in_threads(lambda i: torch.mul(weight, i, out=memory[i]), range(4))

    assert memory[:, 0].tolist() == [0, 1, 2, 3]
    assert not memory.requires_grad


@pytest.mark.usefixtures("two_threads")
def test_threads_may_be_asked_for_within_threads():
    """Where there is one for each already: they compute in place."""
    inner = map_in_threads(lambda x: map_in_threads(lambda y: x + y, range(3)), range(3))

    assert inner == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.usefixtures("two_threads")
def test_a_forked_process_gets_threads_of_its_own():
    """As a loader of training data does that was forked from a process that has annotated."""
    map_in_threads(str, range(4))
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # without threads of its own it would wait for ever
        os._exit(0 if map_in_threads(str, range(4)) == ["0", "1", "2", "3"] else 1)
    assert os.waitpid(child, 0)[1] == 0
