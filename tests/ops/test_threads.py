"""Threads for independent pieces of work."""

import os
import signal

import pytest
import torch

from sam_engine.ops.threads import map_in_threads


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_results_come_in_order(num_threads: int):
    """Whatever number of threads torch may use."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        assert map_in_threads(lambda x: x + 1, range(100)) == list(range(1, 101))
        assert map_in_threads(lambda x: x + 1, []) == []
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_process_gets_threads_of_its_own():
    """As a loader of training data does that was forked from a process that has annotated."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        map_in_threads(str, range(4))
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # without threads of its own it would wait for ever
            os._exit(0 if map_in_threads(str, range(4)) == ["0", "1", "2", "3"] else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)
