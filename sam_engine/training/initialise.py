"""How training starts: ``tiny`` from an ImageNet trunk, its attention knowing where a click is."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import ARCHITECTURES, MODELS
from sam_engine.checkpoints.resolve import fitting_state_dict, load_state_dict
from sam_engine.errors import CheckpointError, ConfigError
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.tiny_encoder import TinyEncoder
from sam_engine.training.config import TrainConfig

BATCH_NORM_EPS = 1e-5
CROSS_ATTENTION_GAIN = 1.5
"""Scale of the tied projections: what makes a token attend to the few cells round its own position."""


def build_initial(config: TrainConfig) -> Sam:
    """Return the model that a run starts from, at the training size.

    Where the size is no part of the weights, they are those of the model at its own size; a ViT has one size,
    that of its positions.

    Raises:
        CheckpointError: Initial weights are missing or of another model.
        ConfigError: There is no such model, or none of this size.
    """
    architecture = ARCHITECTURES.get(config.model)
    if architecture is None:
        raise ConfigError(f"model={config.model} is none of {', '.join(ARCHITECTURES)}")
    family = architecture.family
    if not family.has_free_size and config.side != architecture.image_size:
        raise ConfigError(f"image_size={config.side}: {config.model} needs {architecture.image_size}")
    if not family.has_mobilenet_trunk and config.init_trunk is not None:
        fitting = [name for name, row in MODELS.items() if row.architecture.family.has_mobilenet_trunk]
        raise ConfigError(
            f"init_trunk is for {', '.join(fitting)}; give {config.model} its weights as init_checkpoint"
        )
    torch.manual_seed(config.seed)
    sam = build_architecture(replace(architecture, image_size=config.side))
    if family.has_tied_start:
        tie_cross_attention(sam)
    if config.init_checkpoint is not None:
        path = Path(config.init_checkpoint)
        if not path.exists():
            raise CheckpointError(f"{path}: init_checkpoint does not exist")
        sam.load_state_dict(fitting_state_dict(load_state_dict(path), sam, path))
    elif config.init_trunk is not None:
        load_mobilenet_trunk(cast(TinyEncoder, sam.image_encoder), config.init_trunk)
    return sam


def load_mobilenet_trunk(encoder: TinyEncoder, path: str | Path) -> None:
    """Copy MobileNetV2 weights into the trunk, folding batch normalisation into the convolutions.

    Args:
        encoder: Of width 1.0.
        path: ``.npz`` with the key names of torchvision's ``mobilenet_v2``.

    Raises:
        CheckpointError: The file is missing, or a tensor of the trunk has no counterpart of its shape.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as .npz weights ({error})") from error
    for name, module in encoder.trunk.named_modules():
        if isinstance(module, nn.Conv2d):
            conv, norm = _torchvision_names(name, has_widening=name.split(".")[0] != "1")
            _copy_folded(module, arrays, f"features.{conv}", f"features.{norm}", path)


def _torchvision_names(name: str, *, has_widening: bool) -> tuple[str, str]:
    """Return the torchvision names of a convolution of our trunk and of its normalisation.

    Ours are ``0.conv`` for the stem, ``N.conv.J.conv`` for widening and depthwise convolutions, ``N.conv.J``
    for the narrowing one; torchvision's are ``0.0``, ``N.conv.J.0`` and ``N.conv.J``.
    """
    parts = name.split(".")
    if len(parts) == 2:
        return f"{parts[0]}.0", f"{parts[0]}.1"
    layer, _, position = parts[:3]
    if len(parts) == 4:
        return f"{layer}.conv.{position}.0", f"{layer}.conv.{position}.1"
    assert position == ("2" if has_widening else "1")
    return f"{layer}.conv.{position}", f"{layer}.conv.{int(position) + 1}"


def _copy_folded(
    module: nn.Conv2d, arrays: dict[str, np.ndarray], conv: str, norm: str, path: str | Path
) -> None:
    """Copy one convolution, its normalisation folded in: w * g / sqrt(v + eps), b - m * g / sqrt(v + eps)."""
    try:
        weight, gain, bias, mean, variance = (
            torch.from_numpy(arrays[key]).double()
            for key in (
                f"{conv}.weight",
                f"{norm}.weight",
                f"{norm}.bias",
                f"{norm}.running_mean",
                f"{norm}.running_var",
            )
        )
    except KeyError as error:
        raise CheckpointError(
            f"{path}: has no tensor {error}; MobileNetV2 in torchvision's names is needed"
        ) from error
    if weight.shape != module.weight.shape:
        raise CheckpointError(
            f"{path}: {conv}.weight is {tuple(weight.shape)}, the trunk needs {tuple(module.weight.shape)}"
        )
    factor = gain / (variance + BATCH_NORM_EPS).sqrt()
    assert module.bias is not None
    with torch.no_grad():
        module.weight.copy_(weight * factor[:, None, None, None])
        module.bias.copy_(bias - mean * factor)


def tie_cross_attention(sam: Sam) -> None:
    """Make query and key projections of the decoder's cross-attentions equal and orthogonal.

    Positions of prompts and of image cells then meet in the same subspace, so that a token attends to its own
    surroundings from the first step. With independent projections a small model on small data ignores its
    prompts for hundreds of steps.
    """
    transformer = sam.mask_decoder.transformer
    attentions: list[Any] = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    with torch.no_grad():
        for attention in attentions:
            nn.init.orthogonal_(attention.q_proj.weight, gain=CROSS_ATTENTION_GAIN)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            nn.init.zeros_(attention.q_proj.bias)
            nn.init.zeros_(attention.k_proj.bias)
