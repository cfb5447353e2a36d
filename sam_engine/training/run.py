"""One training run, from a packed dataset to exported weights. Of ours it needs the network, no engine."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sam_engine.errors import ConfigError
from sam_engine.training.checkpoint import export_weights
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data import TrainingImages, step_batches
from sam_engine.training.initialise import build_initial
from sam_engine.training.packed import PackedDataset
from sam_engine.training.trainer import LAST, WEIGHTS, Trainer, train

log = logging.getLogger(__name__)

CONFIG = "config.json"
"""The settings of a run, in its output: what ``python -m sam_engine.training`` takes."""


def packed_path(config: TrainConfig) -> Path:
    """Return where the packed dataset of a run lies."""
    return Path(config.data.packed or Path(config.output) / "packed.npz")


def open_images(config: TrainConfig) -> TrainingImages:
    """Return what a run draws its images from.

    Raises:
        ConfigError: There is no packed dataset, or settings do not fit it; or as `StreamedDataset`.
    """
    if config.data.stream:
        from sam_engine.training.streaming import StreamedDataset  # needs more than a bare machine has

        return StreamedDataset(config.data)
    packed = packed_path(config)
    if not packed.exists():
        raise ConfigError(
            f"{packed} does not exist; make it with python -m pipelines.train data.pack_only=true"
        )
    return PackedDataset(packed, config.data.weights)


def run_training(config: TrainConfig) -> int:
    """Start or resume a run on a packed dataset; return 0, or 128 plus the signal that stopped it.

    Raises:
        ConfigError: There is no packed dataset, or settings do not fit it.
        CheckpointError: Weights to start or resume from are missing, damaged or of another model.
    """
    torch.set_num_threads(config.threads)
    dataset = open_images(config)
    trainer = Trainer(build_initial(config), config)
    output = Path(config.output)
    if (output / LAST).exists():
        trainer.resume(output)
    log.info("%d images, step %d of %d, in %s", len(dataset), trainer.step, config.total_steps, output)
    stopped_by = train(trainer, lambda step: step_batches(dataset, config, step))
    if stopped_by is not None:
        log.info("stopped at step %d; the same command resumes", trainer.step)
        return 128 + stopped_by
    if config.export is not None:
        about = {"data": ", ".join(dataset.sources), "licence": "see docs/model_card.md"}
        export_weights(output / WEIGHTS, Path(config.export), about)
    return 0


def write_config(config: TrainConfig) -> Path:
    """Write the settings beside the run's checkpoints; return the file."""
    path = Path(config.output) / CONFIG
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
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
            target, name = (data, key[5:]) if key.startswith("data.") else (settings, key)
            if name not in target:
                raise ConfigError(f"there is no setting {key!r}")
            target[name] = value
        return TrainConfig(data=DataConfig(**data), **settings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: no settings of a training run ({error})") from error
