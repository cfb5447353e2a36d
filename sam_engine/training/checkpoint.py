"""Checkpoints of a training run: one safetensors file with model, average, optimiser and progress."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sam_engine.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """All that a run needs to go on."""

    step: int
    """Steps done."""
    tensors: dict[str, Tensor]
    """Named ``model.*``, ``ema.*``, ``exp_avg.*``, ``exp_avg_sq.*`` and ``step.*``."""
    metadata: dict[str, str]
    """What was written beside: config, command."""


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file that is there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    save_file(
        {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, partial, metadata
    )
    partial.chmod(0o644)  # safetensors leaves it unreadable to others
    partial.replace(path)


def load_state(path: Path) -> TrainingState:
    """Read a training checkpoint.

    Raises:
        CheckpointError: The file is damaged or holds no training state.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return TrainingState(step=int(metadata["step"]), tensors=tensors, metadata=metadata)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a training checkpoint ({error}); move it away to start anew"
        ) from error


def export_weights(source: Path, target: Path, notes: Mapping[str, str]) -> None:
    """Write model weights as float16 for shipping; loading them into a model widens them again.

    The metadata keeps the settings of the training, without the paths of the machine it ran on.

    Args:
        source: ``model.safetensors`` of a run.
        target: Where to; replaced.
        notes: Added to the file's metadata.
    """
    state = load_state(source)
    tensors = {name: tensor.to(torch.float16) for name, tensor in state.tensors.items()}
    settings = _without_paths(json.loads(state.metadata["config"]))
    metadata = {"step": str(state.step), "config": json.dumps(settings, sort_keys=True), **notes}
    save_tensors(target, tensors, metadata)


def _without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with files by their bare names; nested ones alike."""
    bare: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            bare[name] = _without_paths(value)
        elif isinstance(value, list):
            bare[name] = [Path(item).name if isinstance(item, str) else item for item in value]
        else:
            bare[name] = Path(value).name if isinstance(value, str) and "/" in value else value
    return bare
