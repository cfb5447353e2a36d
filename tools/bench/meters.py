"""The instruments of `tools.bench`: time, memory, waits for the device, rate of matrix products."""

import functools
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch


def work_clock(device: torch.device) -> Callable[[], float]:
    """Return a clock of seconds of work: CPU time where one thread does it all, else wall-clock time."""
    one_thread = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if one_thread else time.perf_counter


@contextmanager
def stopwatch(
    watched: Sequence[tuple[Any, Mapping[str, str]]], seconds: dict[str, float], device: torch.device
) -> Iterator[None]:
    """Add the time that methods take to their stages, by `work_clock`.

    One that another calls counts for the other's stage.
    """
    running, clock = False, work_clock(device)

    def timed(method: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal running
            if running:
                return method(*args, **kwargs)
            running = True
            synchronise(device)
            start = clock()
            try:
                return method(*args, **kwargs)
            finally:
                synchronise(device)
                seconds[stage] += clock() - start
                running = False

        return call

    for thing, stages in watched:
        for name, stage in stages.items():
            setattr(thing, name, timed(getattr(thing, name), stage))
    try:
        yield
    finally:
        for thing, stages in watched:
            for name in stages:
                delattr(thing, name)


def synchronise(device: torch.device) -> None:
    """Wait for work that was queued on an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def count_syncs(work: Callable[[], object]) -> int:
    """Return how often work on CUDA makes the program wait for the device.

    Those are the waits that torch reports, and those for events, of which it says nothing.
    """
    num_events, wait = 0, torch.cuda.Event.synchronize

    def counted(event: torch.cuda.Event) -> None:
        nonlocal num_events
        num_events += 1
        wait(event)

    with (
        warnings.catch_warnings(record=True) as caught,
        patch.object(torch.cuda.Event, "synchronize", counted),
    ):
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return num_events + sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes in use since the process started: of CUDA by torch, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:  # getrusage counts the process that started this one too
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure_matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the GFLOP/s of the best of several products of square matrices: the most the device gives."""
    size = 1536 if device.type == "cpu" else 8192
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):
        synchronise(device)
        start = time.perf_counter()
        a @ b
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9
