"""What ``executor=auto`` comes to: Ray where it pays, else one process beside the driver. No torch."""

import os
from dataclasses import dataclass
from pathlib import Path

from sam_engine.catalogue import MODELS
from sam_engine.config import AutoAnnotateConfig

RAY_START_S = 25.0
"""What Ray costs to start on a small machine: eight photos took 39 s with it and 14 s without."""
_GPUS = ("nvidia[0-9]*", "kfd", "dxg")
"""Device files of CUDA, ROCm and WSL: asking torch would take longer than this choice may save."""


@dataclass(frozen=True, kw_only=True)
class ExecutorChoice:
    """How shards are made, and why."""

    name: str
    """ray or inline."""
    in_child: bool
    """inline, but in a process of its own, which an image may kill."""
    reason: str
    """For the first line of the log; empty if nobody had to choose."""


def choose_executor(config: AutoAnnotateConfig, num_images: int) -> ExecutorChoice:
    """Return what a run's ``executor.name`` comes to for so many images."""
    executor, device = config.executor, config.model.device
    if executor.name != "auto":
        return ExecutorChoice(name=executor.name, in_child=False, reason="")
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_workers = executor.num_workers or max(1, num_cpus // executor.threads_per_worker)
    model = MODELS.get(config.model.name)  # none there is for rows without masks
    seconds = num_images * (model.cpu_seconds_per_image if model else 0.0)
    saved = seconds * (1 - 1 / num_workers)
    if executor.address != "local":
        ray = f"Ray, at {executor.address}"
    elif device.startswith("cuda") or (device == "auto" and _has_gpu()):
        ray = "Ray, for there is a GPU"
    elif executor.num_workers is not None and executor.num_workers > 1:
        ray = f"Ray, for {executor.num_workers} workers were asked for"
    elif saved > RAY_START_S:
        ray = f"Ray, for {num_images:,} images are enough for {num_workers} workers"
    else:
        reason = f"executor=auto: one process without Ray, which is quicker for {num_images:,} images here"
        return ExecutorChoice(name="inline", in_child=True, reason=reason)
    return ExecutorChoice(name="ray", in_child=False, reason=f"executor=auto: {ray}")


def _has_gpu() -> bool:
    """Return whether this machine shows a GPU to its programs."""
    return any(any(Path("/dev").glob(pattern)) for pattern in _GPUS)
