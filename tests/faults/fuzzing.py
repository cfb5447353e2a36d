"""Feed a decoder hostile inputs in a process of its own, which may crash, hang or eat memory, and count.

Input k of a seed is always the same bytes, so that a crash can be made again from two numbers.
"""

import json
import mmap
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BATCH = 5_000
"""Inputs between two reports of a child."""
STUCK_AFTER_S = 60.0
"""One input may take this long before its child is ended, in seconds of wall time on a busy machine."""

Step = Callable[[int], str]
"""Makes input k, tries it and returns its outcome."""


@dataclass(kw_only=True)
class Fuzzed:
    """What came of a range of inputs."""

    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    """What ended a child, and at which input."""
    slowest_s: float = 0.0
    """CPU time of one input; its number is ``slowest``. By the clock it would measure a busy machine."""
    slowest: int = -1
    peak_bytes: int = 0
    """Largest resident memory of a child."""


def fuzz(module: str, first: int, stop: int, seed: int) -> Fuzzed:
    """Run inputs [first, stop) of a seed through ``module``'s ``step``, in children that are replaced."""
    result = Fuzzed()
    while first < stop:
        first = _run_child(module, first, stop, seed, result)
    return result


def serve(make_step: Callable[[int], Step]) -> None:
    """Be the child: report on inputs as they are done. Range, seed and place of the counter are in argv."""
    first, stop, seed = (int(value) for value in sys.argv[1:4])
    with open(sys.argv[4], "r+b") as file:
        counter = mmap.mmap(file.fileno(), 8)
    reports = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)  # libraries complain of every damaged file
    step = make_step(seed)
    outcomes: Counter[str] = Counter()
    slowest, slowest_s = -1, 0.0
    for number in range(first, stop):
        counter[:] = struct.pack("<q", number)
        started = time.process_time()
        outcomes[step(number)] += 1
        seconds = time.process_time() - started
        if seconds > slowest_s:
            slowest, slowest_s = number, seconds
        if (number + 1 - first) % BATCH == 0 or number + 1 == stop:
            report = {"done": number + 1, "outcomes": outcomes, "slowest": slowest, "slowest_s": slowest_s}
            report["peak_bytes"] = peak_bytes()
            os.write(reports, json.dumps(report).encode() + b"\n")
            outcomes.clear()


def peak_bytes() -> int:
    """Return this process's largest memory; what `getrusage` and `wait4` say includes the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("needs Linux's /proc/self/status")


def _run_child(module: str, first: int, stop: int, seed: int, result: Fuzzed) -> int:
    """Run one child until it is done or dead; return the first input that is left."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(struct.pack("<q", -1))
        file.flush()
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        arguments = [str(first), str(stop), str(seed), file.name]
        child = subprocess.Popen(
            [sys.executable, "-m", f"tests.faults.{module}", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
        )
        done, is_stuck = first, False
        for report in _reports(child, file.name):
            if report is None:
                is_stuck = True
                child.kill()
                break
            done = report["done"]
            result.outcomes.update(report["outcomes"])
            result.peak_bytes = max(result.peak_bytes, report["peak_bytes"])
            if report["slowest_s"] > result.slowest_s:
                result.slowest, result.slowest_s = report["slowest"], report["slowest_s"]
        assert child.stdout is not None
        child.stdout.close()
        child.wait()
        if child.returncode == 0 and not is_stuck:
            return stop
        at = _counter(file.name)
        what = "hung" if is_stuck else f"ended with {child.returncode}"
        result.crashes.append(f"{module} --seed {seed}: input {at} {what}")
        if at < 0:
            raise RuntimeError(f"{module}: its process does not start")
        result.outcomes["in a batch that was cut off"] += at - done
        return at + 1


def _reports(child: "subprocess.Popen[bytes]", counter_path: str) -> Iterator[dict | None]:
    """Yield a child's reports; None if its counter stands still for too long."""
    import selectors

    assert child.stdout is not None
    buffer, last, since = b"", -2, time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(1.0):
                part = os.read(child.stdout.fileno(), 65_536)
                if not part:
                    return
                *lines, buffer = (buffer + part).split(b"\n")
                yield from (json.loads(line) for line in lines)
            now = _counter(counter_path)
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > STUCK_AFTER_S:
                yield None
                return


def _counter(path: str) -> int:
    """Return the number of the input in hand."""
    with open(path, "rb") as file:
        return int(struct.unpack("<q", file.read(8))[0])
