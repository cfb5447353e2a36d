"""Bombs against the header checks, and what decoding in a process of its own costs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from sam_engine.config import DecodeConfig
from sam_engine.images.decode import decode_image
from sam_engine.images.isolated import IsolatedDecoder
from sam_engine.structures import ImageStatus
from tests.corpus.image_corpus import cases, encode, photo

from .fuzzing import ROOT
from .result import Result

BOMB_SECONDS = 0.2
BOMB_BYTES = 50 * 2**20
PHOTO_SIZE = (1500, 2250)
MAX_ISOLATION_COST = 0.25
CONFIG = DecodeConfig()
# In a process that has made nothing else: growth of the peak is then what the bomb took.
REFUSE = """
import json, resource, sys, time
from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError
from sam_engine.images.decode import decode_image
data, status, peak = sys.stdin.buffer.read(), "ok", resource.RUSAGE_SELF
before, started = resource.getrusage(peak).ru_maxrss, time.process_time()
try:
    decode_image(data, DecodeConfig())
except ImageError as error:
    status = str(error.status)
seconds, after = time.process_time() - started, resource.getrusage(peak).ru_maxrss
print(json.dumps({"status": status, "seconds": seconds, "bytes": (after - before) * 1024}))
"""


def run_bombs(_work: Path, count: int | None, _seed: int) -> Result:
    """Decode each bomb of the corpus in a fresh process; status, CPU time and memory are promises."""
    names = [name for name, case in cases().items() if case.status is ImageStatus.TOO_LARGE][:count]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = Result(campaign="bombs", injected=len(names))
    slowest, largest = 0.0, 0
    for name in names:
        output = subprocess.run(
            [sys.executable, "-c", REFUSE], input=cases()[name].data, env=environment, check=True, stdout=-1
        ).stdout
        told = json.loads(output)
        result.outcomes[told["status"]] += 1
        result.by_kind[name.rpartition(".")[2]] += 1
        slowest, largest = max(slowest, told["seconds"]), max(largest, told["bytes"])
        if told["status"] != ImageStatus.TOO_LARGE:
            result.violations.append(f"{name} is {told['status']}")
        if told["seconds"] > BOMB_SECONDS or told["bytes"] > BOMB_BYTES:
            took = f"{told['seconds']:.2f} s and {told['bytes'] / 2**20:.0f} MB"
            result.violations.append(f"{name} took {took} to refuse")
    result.details = {"slowest": f"{slowest:.4f} s", "most memory": f"+{largest / 2**20:.1f} MB"}
    return result


def run_isolation(_work: Path, count: int | None, _seed: int) -> Result:
    """Decode one photo here and in a child, in turns; the median ratio of CPU times is a promise.

    Wall times are told too, but on a busy machine they measure the neighbours.
    """
    rounds = 60 if count is None else count
    rows, columns = (np.arange(side) % photo().shape[axis] for axis, side in enumerate(PHOTO_SIZE))
    noise = np.random.default_rng(0).normal(0, 4, (*PHOTO_SIZE, 3))
    picture = np.clip(photo()[np.ix_(rows, columns)] + noise, 0, 255).astype(np.uint8)
    data = encode(picture, "JPEG", quality=90)
    here, there = [], []
    with IsolatedDecoder(CONFIG) as decoder:
        decoder.decode(data)  # starts the child
        assert decoder._child is not None
        child_clock = (~decoder._child.pid << 3) | 2  # Linux: the CPU time of that process

        def now() -> np.ndarray:
            return np.array([time.process_time() + time.clock_gettime(child_clock), time.perf_counter()])

        for _ in range(rounds):
            started = now()
            decode_image(data, CONFIG)
            between = now()
            decoder.decode(data)
            here.append(between - started)
            there.append(now() - between)
    ratios = np.median(np.array(there) / np.array(here), axis=0)
    result = Result(campaign="isolation", injected=rounds)
    result.by_kind["JPEG 1500 x 2250"] = rounds
    if ratios[0] > 1 + MAX_ISOLATION_COST:
        result.violations.append(f"a child takes {ratios[0]:.2f} times the CPU time")
    times = [f"{value * 1e3:.1f}" for value in (*np.median(here, axis=0), *np.median(there, axis=0))]
    result.details = {
        "cost": f"{ratios[0] - 1:.1%} of CPU time ({times[0]} and {times[2]} ms)",
        "by the clock": f"{ratios[1] - 1:.1%} ({times[1]} and {times[3]} ms)",
    }
    return result
