"""One training run, from annotated images to exported weights. Of ours it needs the network, no engine."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam_engine.build_sam import load_model
from sam_engine.config import ModelConfig
from sam_engine.errors import ConfigError
from sam_engine.files import write_atomically
from sam_engine.settings.checks import settings_from
from sam_engine.training.checkpoint import export_weights, has_state
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.process import open_held_out, open_images, train_in_process
from sam_engine.training.trainer import LAST, WEIGHTS

log = logging.getLogger(__name__)

CONFIG = "config.json"
"""The settings of a run, in its output: what ``python -m sam_engine.training`` takes."""


FREE = frozenset(
    {
        "output",
        "export",
        "log",
        "address",
        "num_workers",
        "accumulate",
        "max_restarts",
        "total_steps",
        "precision",
        "device",
        "threads",
        "checkpoint_minutes",
        "checkpoint_file_mb",
        "held_out",
        "held_out_packed",
        "evaluate_steps",
        "evaluate_images",
        "log_steps",
        "overlay_steps",
        "masks_per_image",
        "may_change",
        "data.images",
        "data.sources_csv",
        "data.packed",
        "data.loaders",
        "data.pack_only",
    }
)
"""What may change when a run goes on: where, how fast and how long it runs, and what it says."""
PATHS = frozenset({"data.sources", "data.region_sources", "init_trunk", "init_checkpoint"})
"""Settings compared by the names of files, which may lie elsewhere or, on another machine, be left out."""


def refuse_other_settings(config: TrainConfig) -> None:
    """Raise `ConfigError` if the output holds a run that learnt with other settings than these."""
    path = Path(config.output) / CONFIG
    if not has_state(path.with_name(LAST)) or not path.exists():
        return
    before, now = _flat(read_config(path, {})), _flat(config)
    changed = {
        key: (before[key], value)
        for key, value in now.items()
        if key not in FREE and key not in config.may_change and before[key] != value
    }
    for key in PATHS & changed.keys():
        old, new = changed[key]
        if not new or _names(old) == _names(new):
            del changed[key]
    if changed:
        listed = ", ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in sorted(changed.items()))
        raise ConfigError(
            f"{config.output} holds a run with other settings: {listed}. Choose another output, with "
            f"init_checkpoint={path.with_name(WEIGHTS)} to start from its weights, or go on all the same, "
            f"with may_change=[{','.join(sorted(changed))}]"
        )


def _flat(config: TrainConfig) -> dict[str, Any]:
    """Return the settings by name, those of the data by ``data.NAME``."""
    settings = dataclasses.asdict(config)
    data = settings.pop("data")
    return settings | {f"data.{name}": value for name, value in data.items()}


def _names(paths: str | list[str] | None) -> list[str]:
    """Return the last parts of paths."""
    return [Path(path).name for path in ([paths] if isinstance(paths, str) else paths or [])]


def run_training(config: TrainConfig) -> int:
    """Start or resume a run; return 0, or 128 plus the signal that stopped it.

    Raises:
        ConfigError: There is no packed dataset, settings do not fit it, or the output holds another run.
        CheckpointError: Weights to start or resume from are missing, damaged or of another model.
    """
    refuse_other_settings(config)
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
        _export(config, Path(config.export))
    return 0


def _export(config: TrainConfig, target: Path) -> None:
    """Write the shipped weights, and what the held-out images recommend for them into their metadata."""
    about = {"data": ", ".join(open_images(config).sources), "licence": "see docs/model_card.md"}
    export_weights(Path(config.output) / WEIGHTS, target, about)
    held_out = open_held_out(config)
    if held_out is None:
        log.info("no held-out images recommend thresholds for %s", target)
        return
    model = load_model(ModelConfig(name=config.model, checkpoint=str(target), device=config.device))
    thresholds = dataclasses.asdict(held_out.recommend(model, config.masks_per_image))
    export_weights(
        Path(config.output) / WEIGHTS,
        target,
        about | {name: f"{value:g}" for name, value in thresholds.items()},
    )
    log.info("held-out images recommend %s for %s", thresholds, target)


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
