"""What durability costs: the time of syncing, linking and reading back, beside the time of a whole run.

The run is the default one in this process: bundled model, sample photos, which are few, so that shards are
small and commits many. Seconds by the clock for durability are compared with CPU seconds of the run, which
on a busy machine is the less favourable way.
"""

import functools
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sam_engine.dataset.shards
from pipelines.auto_annotate import run
from sam_engine.config import AutoAnnotateConfig, ExecutorConfig

from .result import Order, Result

ALLOWED = 0.01
"""Of a run."""


def run_cost(work: Path, order: Order) -> Result:
    """Time the parts of one run; ``order.limit`` images."""
    result = Result(campaign="cost")
    seconds: Counter[str] = Counter()
    for owner, name in (
        (os, "fsync"),
        (os, "link"),
        (os, "unlink"),
        (sam_engine.dataset.shards, "_check_read_back"),
        (sam_engine.dataset.shards, "seal"),
    ):
        setattr(owner, name, _timed(getattr(owner, name), seconds, name.strip("_")))
    config = AutoAnnotateConfig(
        output=str(work / "out"), limit=order.limit, previews=0, executor=ExecutorConfig(name="inline")
    )
    started, cpu_started = time.monotonic(), time.process_time()
    code = run(config)
    wall, cpu = time.monotonic() - started, time.process_time() - cpu_started
    durable = sum(seconds.values())
    result.injected = len(list((work / "out/annotations").iterdir()))
    result.by_kind["shards committed"] = result.injected
    result.outcomes[f"exit {code}"] += 1
    result.details = {
        "run": f"{wall:.1f} s, {cpu:.1f} s of CPU",
        "durability": f"{durable:.3f} s",
        "share": f"{100 * durable / cpu:.2f} % of CPU time, {100 * durable / wall:.2f} % of wall time",
        **{name: f"{value * 1000:.0f} ms" for name, value in seconds.items()},
    }
    if durable > ALLOWED * min(wall, cpu):
        result.violations.append(f"durability took {durable:.2f} s of a run of {min(wall, cpu):.1f} s")
    return result


def _timed(function: Callable[..., Any], seconds: Counter[str], name: str) -> Callable[..., Any]:
    """Return a function that adds up how long it takes."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] += time.monotonic() - started  # type: ignore[assignment]

    return call
