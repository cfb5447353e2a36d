"""Checkpoints of a training run: safetensors files with model, average, optimiser and progress.

A checkpoint is one file, or on request pieces of a limited size beside an index. Either is there completely
or not at all: the name that readers look for appears last, in one rename.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sam_engine.errors import CheckpointError
from sam_engine.files import new_path, write_atomically

MEGABYTE = 10**6


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """All that a run needs to go on."""

    step: int
    """Steps done."""
    tensors: dict[str, Tensor]
    """Named ``model.*``, ``ema.*``, ``exp_avg.*``, ``exp_avg_sq.*`` and ``step.*``."""
    metadata: dict[str, str]
    """What was written beside: config, best score, loss scale."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file that is there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: _on_host(tensor) for name, tensor in tensors.items()}
    with new_path(path) as partial:
        save_file(whole, partial, metadata)
        partial.chmod(0o644)  # safetensors leaves it unreadable to others


def save_state(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str], file_mb: float | None
) -> None:
    """Write a state as one file, or as files of at most ``file_mb`` megabytes and an index of them.

    Args:
        path: Of the file. In pieces: ``<stem>-<step>-<number>.safetensors`` and ``<stem>.index.json``.
        tensors: Everything.
        metadata: With ``step``.
        file_mb: None for one file.
    """
    index = index_path(path)
    if file_mb is None:
        save_tensors(path, tensors, metadata)
        index.unlink(missing_ok=True)
        _delete_pieces(path, keep=())
        return
    names = []
    places: dict[str, dict[str, Any]] = {}
    for number, piece in enumerate(_cut(tensors, int(file_mb * MEGABYTE))):
        name = f"{path.stem}-{metadata['step']}-{number:05d}.safetensors"
        save_tensors(path.with_name(name), piece, {})
        names.append(name)
        for key in piece:
            tensor = key.rpartition("@")[0]
            place = places.setdefault(tensor, {"shape": list(tensors[tensor].shape), "pieces": []})
            place["pieces"].append([name, key])
    write_atomically(index, json.dumps({"metadata": metadata, "tensors": places}) + "\n")
    path.unlink(missing_ok=True)
    _delete_pieces(path, keep=names)


def has_state(path: Path) -> bool:
    """Whether there is a state, in one file or in pieces."""
    return path.exists() or index_path(path).exists()


def load_state(path: Path) -> TrainingState:
    """Read a training checkpoint, in one file or in pieces.

    Raises:
        CheckpointError: The file is damaged or holds no training state, or a piece is missing.
    """
    index = index_path(path)
    place = index if index.exists() else path
    try:
        if place is index:
            metadata, tensors = _load_pieces(index)
        else:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return TrainingState(step=int(metadata["step"]), tensors=tensors, metadata=metadata)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{place}: not a training checkpoint ({error}); move it away to start anew"
        ) from error


def index_path(path: Path) -> Path:
    """Return where the index of a state in pieces lies."""
    return path.with_suffix(".index.json")


def export_weights(source: Path, target: Path, notes: Mapping[str, str]) -> None:
    """Write model weights as float16 for shipping; loading them into a model widens them again.

    The metadata keeps the settings of the training, without the paths of the machine it ran on.

    Args:
        source: ``model.safetensors`` or ``best.safetensors`` of a run.
        target: Where to; replaced.
        notes: Added to the file's metadata.
    """
    state = load_state(source)
    tensors = {name: tensor.to(torch.float16) for name, tensor in state.tensors.items()}
    settings = _without_paths(json.loads(state.metadata["config"]))
    metadata = {"step": str(state.step), "config": json.dumps(settings, sort_keys=True), **notes}
    save_tensors(target, tensors, metadata)


def _on_host(tensor: Tensor) -> Tensor:
    """Return a contiguous copy of its own in the host's memory; on its device there is none."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _cut(tensors: Mapping[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    """Yield flat pieces ``name@number`` of all tensors in order, as many together as make ``limit`` bytes."""
    limit = max(limit - limit // 20, 1)  # the rest is for names and offsets
    piece: dict[str, Tensor] = {}
    room = limit
    for name, tensor in tensors.items():
        flat = _on_host(tensor).flatten()
        length = max(1, limit // flat.element_size())
        for number, part in enumerate(flat.split(length) if len(flat) else [flat]):
            size = part.numel() * part.element_size() + len(name) + 100
            if piece and size > room:
                yield piece
                piece, room = {}, limit
            piece[f"{name}@{number}"] = part
            room -= size
    yield piece


def _load_pieces(index: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return metadata and tensors of a state in pieces."""
    document = json.loads(index.read_text())
    names = sorted({name for place in document["tensors"].values() for name, _ in place["pieces"]})
    files = {name: load_file(index.parent / Path(name).name) for name in names}
    tensors = {
        tensor: torch.cat([files[name][key] for name, key in place["pieces"]]).reshape(place["shape"])
        for tensor, place in document["tensors"].items()
    }
    return document["metadata"], tensors


def _delete_pieces(path: Path, keep: tuple[str, ...] | list[str]) -> None:
    """Delete the pieces of earlier states."""
    for old in path.parent.glob(f"{path.stem}-*-*.safetensors"):
        if old.name not in keep:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()


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
