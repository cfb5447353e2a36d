"""One training run, from annotated images to exported weights. Of ours it needs the network, no engine."""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sam_engine.errors import ConfigError
from sam_engine.training.checkpoint import export_weights, has_state
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data.batches import StepBatches, TrainingImages
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.initialise import build_initial
from sam_engine.training.ranks import Ranks
from sam_engine.training.steps import train
from sam_engine.training.trainer import LAST, WEIGHTS, Trainer

log = logging.getLogger(__name__)

CONFIG = "config.json"
"""The settings of a run, in its output: what ``python -m sam_engine.training`` takes."""


def packed_path(config: TrainConfig) -> Path:
    """Return where the packed dataset of a run lies."""
    return Path(config.data.packed or Path(config.output) / "packed.npz")


def held_out_path(config: TrainConfig) -> Path:
    """Return where the packed held-out images of a run lie."""
    return Path(config.held_out_packed or Path(config.output) / "held-out.npz")


def open_images(config: TrainConfig) -> TrainingImages:
    """Return what a run draws its images from.

    Raises:
        ConfigError: There is no packed dataset, or settings do not fit it; or as `StreamedDataset`.
    """
    if config.data.stream:
        from sam_engine.training.data.streaming import StreamedDataset  # needs more than a bare machine has

        return StreamedDataset(config.data)
    packed = packed_path(config)
    if not packed.exists():
        raise ConfigError(
            f"{packed} does not exist; make it with python -m pipelines.train data.pack_only=true"
        )
    return PackedDataset(packed, config.data.weights)


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


def train_in_process(
    config: TrainConfig,
    ranks: Ranks | None = None,
    device: torch.device | None = None,
    must_stop: Callable[[], bool] = lambda: False,
) -> int | None:
    """Train in this process, alone or as one of several; return the signal that stopped it, if one did.

    Args:
        config: Of the run.
        ranks: Which process this is; None if it is the only one.
        device: This process's; None for ``config.device``.
        must_stop: Asked after each step.
    """
    torch.set_num_threads(config.threads)
    dataset = open_images(config)
    ranks = ranks or Ranks()
    trainer = Trainer(build_initial(config), config, ranks, device)
    output = Path(config.output)
    if has_state(output / LAST):
        trainer.resume(output)
    if ranks.is_first:
        log.info("%d images, step %d of %d, in %s", len(dataset), trainer.step, config.total_steps, output)
    score = _open_score(config) if ranks.is_first else None
    return train(trainer, StepBatches(dataset, config, ranks.rank), score=score, must_stop=must_stop)


def _open_score(config: TrainConfig) -> Callable[[Trainer], dict[str, float]] | None:
    """Return what scores the averaged weights on the held-out images; None if there are none."""
    path = held_out_path(config)
    if not path.exists():
        return None
    from sam_engine.training.held_out import HeldOut  # needs more than a bare machine has

    return HeldOut(PackedDataset(path), config.evaluate_images).score


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
            section, target = (DataConfig, data) if key.startswith("data.") else (TrainConfig, settings)
            name = key.removeprefix("data.")
            if name == "data" or name not in {field.name for field in dataclasses.fields(section)}:
                raise ConfigError(f"there is no setting {key!r}")
            target[name] = value
        return TrainConfig(data=DataConfig(**data), **settings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: no settings of a training run ({error})") from error
