"""From step to step: the loop of a run, with what it saves, scores and shows on the way."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from sam_engine.training.data.batches import StepBatches
from sam_engine.training.journal import Journal
from sam_engine.training.overlays import overlay
from sam_engine.training.signals import stop_requests
from sam_engine.training.trainer import Trainer

log = logging.getLogger(__name__)

OVERLAYS = "overlays"
"""Folder of the pictures, in the output."""
NUM_OVERLAYS = 4
"""Crops in each picture."""
ASKED_TO_STOP = 15
"""What `train` returns if another process received the signal."""


def train(
    trainer: Trainer,
    batches: StepBatches,
    *,
    score: Callable[[Trainer], dict[str, float]] | None = None,
    must_stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, dict[str, float]], None] = lambda step, values: None,
) -> int | None:
    """Train to the end of the schedule, saving now and then; a SIGTERM or SIGINT saves and stops.

    Args:
        trainer: New or resumed.
        batches: Of this process.
        score: Returns scores of the averaged weights, of which ``click`` decides which are best.
        must_stop: Asked after each step; stops like a signal.
        report: Called after each step.

    Returns:
        The number of the signal that stopped it; None if the schedule was completed.
    """
    config, is_first = trainer.config, trainer.ranks.is_first
    output = Path(config.output)
    saved_at = time.monotonic()
    parts = batches.from_step(trainer.step)
    stopped = False

    def asked_to_stop() -> bool:
        return bool(signals) or must_stop()

    with stop_requests() as signals, Journal(output, trainer.step, config, is_first) as journal:
        while trainer.step < config.total_steps and not stopped:
            values, stopped = trainer.train_step(parts, asked_to_stop)
            journal.add(trainer.step, values)
            report(trainer.step, values)
            stopped |= trainer.ranks.size == 1 and asked_to_stop()  # nobody else has to know before
            if not is_first:
                continue
            if score is not None and _is_due(trainer, config.evaluate_steps):
                scores = score(trainer)
                journal.add_scores(trainer.step, scores)
                if trainer.save_best(output, scores["click"]):
                    log.info("step %d: best click IoU so far, %.4f", trainer.step, scores["click"])
            if config.overlay_steps and _is_due(trainer, config.overlay_steps):
                _draw_overlay(trainer, batches, output)
            if time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
                trainer.save(output)
                saved_at = time.monotonic()
        if is_first:
            trainer.save(output)
        return (signals[0] if signals else ASKED_TO_STOP) if stopped else None


def _is_due(trainer: Trainer, interval: int) -> bool:
    """Whether it is time for what happens every ``interval`` steps and at the end."""
    return trainer.step % interval == 0 or trainer.step == trainer.config.total_steps


def _draw_overlay(trainer: Trainer, batches: StepBatches, output: Path) -> None:
    """Write a picture of what the averaged weights make of the first crops of step 0."""
    batch = batches.fixed(NUM_OVERLAYS).to(trainer.device)
    with trainer.averaged():
        logits = trainer.rounds.first_answers(batch)
    folder = output / OVERLAYS
    folder.mkdir(parents=True, exist_ok=True)
    overlay(batch, logits).save(folder / f"step-{trainer.step:07d}.png")
