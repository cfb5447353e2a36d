"""tools.bench.scheduling: what scheduling costs."""

import functools
import itertools
import time

import pytest

from sam_engine.config import ExecutorConfig
from sam_engine.dataset.manifest import cut_shards
from tools.bench.scheduling import SleepingWorker, seconds_of


def test_what_is_timed_is_the_work():
    """Twelve images of 20 ms in one process: no less, and hardly more."""
    make_worker = functools.partial(SleepingWorker, 0.02)
    seconds, starts = seconds_of(cut_shards(12, 3), make_worker, ExecutorConfig(name="inline"))

    assert 0.24 <= seconds < 0.6
    assert starts[0] == 0.0
    assert all(later - earlier >= 0.06 for earlier, later in itertools.pairwise(starts))


def test_a_worker_is_not_timed_while_it_is_made():
    """As a model that takes long to load."""

    def make_slowly():
        time.sleep(0.5)
        return SleepingWorker(0.0)

    seconds, _ = seconds_of(cut_shards(2, 1), make_slowly, ExecutorConfig(name="inline"))

    assert seconds == pytest.approx(0.0, abs=0.3)
