"""Who learns how fast: groups of parameters, and the learning rate over the steps of a run."""

import math
import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from sam_engine.catalogue import FAMILIES
from sam_engine.errors import ConfigError
from sam_engine.modeling.sam import Sam
from sam_engine.training.config import TrainConfig

FLOOR = 0.01
"""Of the peak learning rate, at the end of a cosine."""
STEP_FACTOR = 0.1
"""By which each of ``step_decay_at`` multiplies the learning rate."""


def freeze(sam: Sam, config: TrainConfig) -> None:
    """Let the encoder's first ``config.frozen_layers`` layers, and all but ``config.trained_parts``, stay.

    Nothing before the first trained layer needs a gradient, and that is where maps are largest.

    Raises:
        ConfigError: No parameter is left to train.
    """
    parts = tuple(config.trained_parts)
    for name, parameter in sam.named_parameters():
        layer = trunk_layer(name)
        if (layer is not None and layer < config.frozen_layers) or (parts and not name.startswith(parts)):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in sam.parameters()):
        raise ConfigError(f"trained_parts={config.trained_parts} names nothing of {config.model} to train")


def parameter_groups(sam: Sam, config: TrainConfig) -> list[dict[str, Any]]:
    """Return optimiser groups with their ``peak_lr``, and whether they are of what decays.

    The trunk learns slower, its layers by ``layer_decay`` the slower the earlier they are, and only matrices
    and kernels decay. Source of the latter two: Kirillov et al. 2023, "Segment Anything", appendix A.
    """
    depth = num_trunk_layers(sam)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in _trained(sam):
        layer = trunk_layer(name)
        rate = config.learning_rate
        if layer is not None:
            rate = config.trunk_learning_rate * config.layer_decay ** (depth - 1 - layer)
        decays = parameter.ndim > 1 and "embed" not in name and "token" not in name.split(".")[-2]
        groups.setdefault((rate, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak_lr": rate,
            "decays": decays,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (rate, decays), parameters in groups.items()
    ]


def learning_rate_scale(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step relative to its peak: linear warm-up, then a cosine or steps."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "step":
        return STEP_FACTOR ** sum(step >= part * config.total_steps for part in config.step_decay_at)
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.total_steps - config.warmup_steps))
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress))


def trunk_layer(name: str) -> int | None:
    """Return the number of the image encoder's layer that a parameter is in; None outside of the trunk.

    In a ViT what comes before the first block counts to it: patches and their positions.
    """
    for family in FAMILIES.values():
        found = re.match(rf"image_encoder\.{family.trunk_layers}\.(\d+)\.", name)
        if found:
            return int(found[1])
        if name.startswith(tuple(f"image_encoder.{part}" for part in family.stem)):
            return 0
    return None


def num_trunk_layers(sam: Sam) -> int:
    """Return how many layers the image encoder's trunk has."""
    return len(getattr(sam.image_encoder, sam.image_encoder.family.trunk_layers))


def _trained(sam: Sam) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that are not frozen, by name."""
    return ((name, parameter) for name, parameter in sam.named_parameters() if parameter.requires_grad)
