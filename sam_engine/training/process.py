"""What one process of a training run does: open its images, start or resume, step by step to the end.

`run` calls it for a run of one process, `distributed` in each of several.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sam_engine.errors import ConfigError
from sam_engine.training.checkpoint import has_state
from sam_engine.training.config import TrainConfig
from sam_engine.training.data.batches import StepBatches, TrainingImages
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.initialise import build_initial
from sam_engine.training.ranks import Ranks
from sam_engine.training.steps import train
from sam_engine.training.trainer import LAST, Trainer

if TYPE_CHECKING:
    from sam_engine.training.held_out import HeldOut

log = logging.getLogger(__name__)


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
        raise ConfigError(f"{packed} does not exist; make it with sam-engine train data.pack_only=true")
    return PackedDataset(packed, config.data.weights)


@contextlib.contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Count numbers under 1.2e-38 as 0 in this thread: sums of products with them take ten times as long.

    Momentum of what gets no gradients comes there, squared by Muon within 900 steps.
    """
    were_kept = bool(torch.tensor(1e-39) * 1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(not were_kept)


@_denormals_flushed()
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
    held_out = open_held_out(config) if ranks.is_first else None
    score = None if held_out is None else held_out.score
    return train(trainer, StepBatches(dataset, config, ranks.rank), score=score, must_stop=must_stop)


def open_held_out(config: TrainConfig) -> "HeldOut | None":
    """Return the images that a run is scored on; None if there are none."""
    path = held_out_path(config)
    if not path.exists():
        return None
    from sam_engine.training.held_out import HeldOut  # needs more than a bare machine has

    return HeldOut(PackedDataset(path), config.evaluate_images)
