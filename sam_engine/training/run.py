"""One training run, from annotated images to exported weights. Of ours it needs the network, no engine."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam_engine.config import settings_from
from sam_engine.errors import ConfigError
from sam_engine.files import write_atomically
from sam_engine.training.checkpoint import export_weights
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.process import open_images, train_in_process
from sam_engine.training.trainer import WEIGHTS

log = logging.getLogger(__name__)

CONFIG = "config.json"
"""The settings of a run, in its output: what ``python -m sam_engine.training`` takes."""


def run_training(config: TrainConfig) -> int:
    """Start or resume a run; return 0, or 128 plus the signal that stopped it.

    Raises:
        ConfigError: There is no packed dataset, or settings do not fit it.
        CheckpointError: Weights to start or resume from are missing, damaged or of another model.
    """
    if config.num_workers > 1:
        from sam_engine.training.distributed import train_on_ray  # needs Ray

        open_images(config)  # what is wrong with the data is said here, once
        stopped_by = train_on_ray(config)
    else:
        stopped_by = train_in_process(config)
    if stopped_by is not None:
        log.info("stopped; the same command resumes")
        return 128 + stopped_by
    if config.export is not None:
        about = {"data": ", ".join(open_images(config).sources), "licence": "see docs/model_card.md"}
        export_weights(Path(config.output) / WEIGHTS, Path(config.export), about)
    return 0


def write_config(config: TrainConfig) -> Path:
    """Write the settings beside the run's checkpoints; return the file."""
    path = Path(config.output) / CONFIG
    write_atomically(path, json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    return path


def read_config(path: str | Path, changes: Mapping[str, Any]) -> TrainConfig:
    """Return the settings that `write_config` wrote, with some of them changed.

    Args:
        path: The file.
        changes: Values by the name of the setting, of the data by ``data.NAME``.

    Raises:
        ConfigError: The file is missing or damaged, or a setting is unknown or out of range.
    """
    try:
        settings = json.loads(Path(path).read_text())
        data = settings.pop("data")
        for key, value in changes.items():
            section, target = (DataConfig, data) if key.startswith("data.") else (TrainConfig, settings)
            name = key.removeprefix("data.")
            if name == "data" or name not in {field.name for field in dataclasses.fields(section)}:
                raise ConfigError(f"there is no setting {key!r}")
            target[name] = value
        return settings_from(TrainConfig, {**settings, "data": data})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: no settings of a training run ({error})") from error
