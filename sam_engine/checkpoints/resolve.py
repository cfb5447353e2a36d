"""Checkpoints: from a name, path or URL to a verified file, and from that to a state dict.

torch is imported only where values are read, so that a driver can check what it was given at once.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam_engine.catalogue import ARCHITECTURES, MODELS, NO_MODEL, Architecture, Release, Thresholds
from sam_engine.checkpoints.download import cache_dir, download, fetch_url, file_sha256
from sam_engine.checkpoints.layouts import (
    identify_model,
    original_names,
    read_shapes,
    read_thresholds,
    unnest,
)
from sam_engine.config import ModelConfig
from sam_engine.errors import CheckpointError, ConfigError, MissingCheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn


NEWER_PARTS = ("mask_decoder.shape_heads.", "image_encoder.context.")
"""Parameters that weights of tiny from before them go without: untrained, they have no effect."""
MAX_NAMES_LISTED = 3
MAX_VALUES_PER_BYTE = 8
"""A tensor may be a view: one stored number can claim to be a billion, and converting would make it so."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights that were found and checked; small enough to be sent to workers."""

    name: str
    """File name, or ``random``."""
    path: Path | None
    """Absolute; None for untrained weights."""
    sha256: str | None
    """Of the file."""
    source: str
    """random, bundled, release, url or file; none without a model."""
    architecture: Architecture | None
    """Of the network that these weights fill; None without a model."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """What is recommended for masks of these weights: the file's own, or else the model's."""


def resolve_checkpoint(config: ModelConfig) -> Checkpoint:
    """Find the weights that a configuration asks for, download them if need be, and check that they fit it.

    Afterwards the file exists, has the digest that is pinned or asked for, and by its header belongs to the
    model. Costs one reading of the file for its digest.

    Raises:
        CheckpointError: There is no such file, it is damaged, or it belongs to another model.
    """
    asked = config.checkpoint
    if config.name == NO_MODEL:
        if asked is not None or config.sha256:
            raise ConfigError(f"model.name={NO_MODEL} has no weights; leave model.checkpoint and sha256 out")
        return Checkpoint(name=NO_MODEL, path=None, sha256=None, source=NO_MODEL, architecture=None)
    if asked == "random":
        if config.sha256:
            raise ConfigError("model.sha256 is set, but model.checkpoint=random has no file to check")
        return Checkpoint(
            name="random",
            path=None,
            sha256=None,
            source="random",
            architecture=ARCHITECTURES[config.name],
            thresholds=MODELS[config.name].thresholds,
        )
    source, path, release = _locate(config)
    found_model = find_model(path)
    if found_model != config.name:
        raise CheckpointError(f"{path}: made for {found_model}, but model.name is {config.name}")
    digest = file_sha256(path)
    for expected, where in ((config.sha256, "model.sha256"), (release and release.sha256, "the release")):
        if expected and digest != expected.lower():
            raise CheckpointError(f"{path}: its sha256 is {digest}, but {where} says {expected.lower()}")
    return Checkpoint(
        name=path.name,
        path=path,
        sha256=digest,
        source=source,
        architecture=ARCHITECTURES[config.name],
        thresholds=read_thresholds(path) or MODELS[config.name].thresholds,
    )


def find_model(path: Path) -> str:
    """Return the name of the model that a file holds, from its header alone.

    Raises:
        CheckpointError: The file is missing, damaged, or holds another kind of network.
    """
    shapes = read_shapes(path)
    names = original_names(shapes)
    return identify_model(path, {names[name]: shape for name, shape in shapes.items()})


def load_state_dict(path: Path) -> dict[str, "Tensor"]:
    """Return a file's tensors on the CPU, floating point as float32, by the names of the original release.

    Raises:
        CheckpointError: The file cannot be read, or holds more than weights.
    """
    import torch

    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0").lower() in ("1", "y", "yes", "true"):
        raise CheckpointError(
            f"{path}: not loaded: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD would let checkpoints run code; unset it"
        )
    shapes = read_shapes(path)
    names = original_names(shapes)
    num_values, num_bytes = sum(math.prod(shape) for shape in shapes.values()), path.stat().st_size
    if num_values > MAX_VALUES_PER_BYTE * num_bytes:
        raise CheckpointError(f"{path}: claims {num_values} values in a file of {num_bytes} bytes")
    tensors = _read_tensors(path)
    return {
        name: tensors[key].to(torch.float32) if tensors[key].is_floating_point() else tensors[key]
        for key, name in names.items()
    }


def fitting_state_dict(
    state: Mapping[str, "Tensor"], model: "nn.Module", path: Path | str
) -> dict[str, "Tensor"]:
    """Return a model's state dict with the tensors of a checkpoint.

    Of parts that are newer than the weights (`NEWER_PARTS`) it has the model's own values, or zeros for a
    model on "meta": without an effect either way.

    Raises:
        CheckpointError: Keys or shapes are not the model's; with a short list.
    """
    import torch

    expected = model.state_dict()
    newer = {
        name: torch.zeros(value.shape, dtype=value.dtype) if value.is_meta else value
        for name, value in expected.items()
        if name.startswith(NEWER_PARTS)
    }
    state = {**newer, **state}
    problems = [
        _listing("missing", [name for name in expected if name not in state]),
        _listing("unexpected", [name for name in state if name not in expected]),
        _listing(
            "of another shape",
            [
                f"{name} {tuple(value.shape)} instead of {tuple(expected[name].shape)}"
                for name, value in state.items()
                if name in expected and value.shape != expected[name].shape
            ],
        ),
    ]
    if any(problems):
        raise CheckpointError(f"{path}: does not fit the model: {'; '.join(filter(None, problems))}")
    return state


def _locate(config: ModelConfig) -> tuple[str, Path, Release | None]:
    """Return (source, absolute path, release if the file must be just that one), downloading if need be."""
    asked = config.checkpoint or config.name
    by_name = {name: name for name in MODELS}
    for name, row in MODELS.items():
        if row.release is not None:
            by_name |= {row.release.file_name: name, row.release.url: name}
    path = Path(asked).expanduser()
    if asked in by_name and not (path.suffix and path.exists()):
        model = by_name[asked]
        if model != config.name:
            raise CheckpointError(
                f"model.checkpoint {asked!r} is made for {model}, but model.name is {config.name}"
            )
        bundled, release = MODELS[model].bundled, MODELS[model].release
        if bundled is not None and asked == model:
            if not bundled.exists():
                raise MissingCheckpointError(
                    f"no weights for {model} are bundled with this installation ({bundled} is missing); "
                    "give model.checkpoint=FILE"
                )
            return "bundled", bundled, None
        if release is None:
            raise CheckpointError(f"no weights of {model} are published; give model.checkpoint=FILE")
        cached = cache_dir() / release.file_name
        if not cached.exists():
            download(release.url, cached, num_bytes=release.num_bytes, sha256=release.sha256)
        return "release", cached, release
    if asked.startswith(("https://", "http://")):
        return "url", fetch_url(asked, config.sha256), None
    if "://" in asked:
        raise CheckpointError(
            f"model.checkpoint {asked!r}: only http(s) URLs are read; download it, give its path"
        )
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.exists():
        known = ", ".join(MODELS)
        raise MissingCheckpointError(
            f"model.checkpoint {asked!r}: no such file, nor one of the known names {known}"
        )
    return "file", path.absolute(), None


def _read_tensors(path: Path) -> Mapping[str, Any]:
    """Read all values of a file whose header was read before."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    try:
        if is_safetensors:
            return load_file(path)
        return unnest(torch.load(path, map_location="cpu", weights_only=True))
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged ({error})") from error
    except Exception as error:
        # torch.load raises almost anything on damaged files; whatever it is, this file cannot be used.
        raise CheckpointError(f"{path}: torch cannot read it: {str(error).splitlines()[0]}") from error


def _listing(what: str, names: list[str]) -> str:
    """Return ``2 missing: a, b``, cut short, or an empty string if there are none."""
    if not names:
        return ""
    shown = ", ".join(names[:MAX_NAMES_LISTED]) + (", ..." if len(names) > MAX_NAMES_LISTED else "")
    return f"{len(names)} {what}: {shown}"
