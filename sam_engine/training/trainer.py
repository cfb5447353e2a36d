"""The training loop: resumable to the bit, because a step depends on nothing but the state and its number."""

import csv
import json
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor, nn

from sam_engine.errors import CheckpointError
from sam_engine.modeling.sam import Sam
from sam_engine.training.checkpoint import load_state, save_tensors
from sam_engine.training.config import TrainConfig
from sam_engine.training.data import Batch
from sam_engine.training.losses import PromptLosses, loss_of_step
from sam_engine.training.optimiser import freeze, learning_rate_scale, parameter_groups
from sam_engine.training.rounds import PromptRounds

log = logging.getLogger(__name__)

LAST = "last.safetensors"
"""Everything that a run needs to go on."""
WEIGHTS = "model.safetensors"
"""The averaged weights alone: a checkpoint for ``model.checkpoint``."""
MEANS = ("loss", "mask_loss", "iou_error", "iou", "last_iou")
"""What the log shows of the prompts of a step, before what it shows of the step itself."""


class Trainer:
    """A model, its optimiser and its average, at some step of a run."""

    def __init__(self, sam: Sam, config: TrainConfig) -> None:
        self.config = config
        self.device = torch.device(config.device)
        self.sam = sam.to(self.device).train()
        freeze(sam, config)
        self.rounds = PromptRounds(sam, config)
        for parameter in sam.parameters():  # kernels channels last: 1.7 times as fast in bf16 on a CPU
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.parameters = dict(sam.named_parameters())
        self.ema = {name: tensor.detach().clone() for name, tensor in sam.state_dict().items()}
        self.optimizer = torch.optim.AdamW(parameter_groups(sam, config), betas=(0.9, 0.999))
        self.step = 0

    def train_step(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Learn from the batches of a step and return what the log shows of them.

        Args:
            batches: ``config.accumulate`` parts, equally large. They have the gradients of the whole.
        """
        scale = learning_rate_scale(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale
        self.optimizer.zero_grad(set_to_none=True)
        num_rounds = self._draw_rounds()
        parts = []
        for batch in batches:
            rounds = self.rounds(batch.to(self.device), num_rounds, loss_of_step(self.step, self.config))
            loss = torch.stack([losses.total.mean() for losses in rounds]).mean()
            (loss / self.config.accumulate).backward()
            parts.append(_means(loss.detach(), rounds))
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.clip_grad_norm)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        means = torch.stack(parts).mean(dim=0).tolist()
        return dict(zip(MEANS, means, strict=True)) | {
            "rounds": float(num_rounds),
            "grad_norm": norm.item(),
            "lr": scale * self.config.learning_rate,
        }

    def _draw_rounds(self) -> int:
        """Return how many interactive rounds this step has."""
        rng = np.random.default_rng([self.config.seed, self.step])
        rounds = 1
        if self.step >= self.config.interactive_from_step:
            while rounds < self.config.max_rounds:
                if rng.random() >= self.config.extra_round_fraction:
                    break
                rounds += 1
        return rounds

    def _update_average(self) -> None:
        """Move the averaged weights towards the current ones, faster in the beginning."""
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        current = self.sam.state_dict()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), [current[name] for name in self.ema], 1 - decay)

    def save(self, output: Path) -> None:
        """Write everything that `resume` needs, and the averaged weights as a model of their own."""
        tensors = {f"model.{name}": tensor for name, tensor in self.sam.state_dict().items()}
        tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.items()}
        for name, parameter in self.parameters.items():
            tensors |= {
                f"{key}.{name}": self.optimizer.state[parameter][key] for key in self._moments(parameter)
            }
        metadata = {"step": str(self.step), "config": json.dumps(asdict(self.config), sort_keys=True)}
        save_tensors(output / LAST, tensors, metadata)
        save_tensors(output / WEIGHTS, self.ema, metadata)

    def resume(self, output: Path) -> None:
        """Continue from the last checkpoint; the learning rate follows this run's own schedule.

        Raises:
            CheckpointError: The checkpoint is damaged, or of another architecture.
        """
        path = output / LAST
        state = load_state(path)
        tensors = {name: tensor.to(self.device) for name, tensor in state.tensors.items()}
        try:
            self.sam.load_state_dict(_with_prefix(tensors, "model."))
        except RuntimeError as error:
            raise CheckpointError(f"{path}: made for another architecture ({error})") from error
        for name, tensor in _with_prefix(tensors, "ema.").items():
            self.ema[name].copy_(tensor)
        for name, parameter in self.parameters.items():
            if f"step.{name}" in tensors:  # what has had no gradient yet has no moments
                self.optimizer.state[parameter] = {
                    "step": tensors[f"step.{name}"].cpu(),
                    "exp_avg": torch.empty_like(parameter).copy_(tensors[f"exp_avg.{name}"]).detach(),
                    "exp_avg_sq": torch.empty_like(parameter).copy_(tensors[f"exp_avg_sq.{name}"]).detach(),
                }
        self.step = state.step

    def _moments(self, parameter: nn.Parameter) -> list[str]:
        """Return the names of what the optimiser remembers of a parameter."""
        return [key for key in ("step", "exp_avg", "exp_avg_sq") if key in self.optimizer.state[parameter]]


def train(
    trainer: Trainer,
    batches: Callable[[int], Iterable[Batch]],
    report: Callable[[int, dict[str, float]], None] = lambda step, values: None,
) -> int | None:
    """Train to the end of the schedule, saving now and then; a SIGTERM or SIGINT saves and stops.

    Args:
        trainer: New or resumed.
        batches: The batches of a step.
        report: Called after each step.

    Returns:
        The number of the signal that stopped it; None if the schedule was completed.
    """
    config = trainer.config
    output = Path(config.output)
    saved_at = time.monotonic()
    with _stop_requests() as stop, _LossLog(output / "log.csv", config.log_steps) as loss_log:
        while trainer.step < config.total_steps and not stop:
            values = trainer.train_step(batches(trainer.step))
            loss_log.add(trainer.step, values)
            report(trainer.step, values)
            if time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
                trainer.save(output)
                saved_at = time.monotonic()
        trainer.save(output)
        return stop[0] if stop else None


def _means(loss: Tensor, rounds: list[PromptLosses]) -> Tensor:
    """Return the values of `MEANS` of a batch, (5,)."""
    first, last = rounds[0], rounds[-1]
    return torch.stack(
        [
            loss,
            first.mask.detach().mean(),
            first.iou_error.detach().mean(),
            first.actual_iou.gather(1, first.chosen[:, None]).mean(),
            last.actual_iou.gather(1, last.chosen[:, None]).mean(),
        ]
    )


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix``, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Yield a list that holds the number of a received SIGTERM or SIGINT."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _LossLog:
    """Appends the means of every ``interval`` steps to a CSV file."""

    def __init__(self, path: Path, interval: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._interval = interval
        self._pending: list[dict[str, float]] = []
        self._started = time.monotonic()

    def __enter__(self) -> "_LossLog":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def add(self, step: int, values: dict[str, float]) -> None:
        """Collect a step; write a line when ``interval`` are there."""
        self._pending.append(values)
        if len(self._pending) < self._interval:
            return
        means = {key: sum(v[key] for v in self._pending) / len(self._pending) for key in values}
        seconds = (time.monotonic() - self._started) / len(self._pending)
        if self._file.tell() == 0:
            self._writer.writerow(["step", *means, "seconds_per_step"])
        self._writer.writerow([step, *(f"{value:.5g}" for value in means.values()), f"{seconds:.3f}"])
        self._file.flush()
        log.info("step %d: loss %.3f, iou %.3f, %.2f s/step", step, means["loss"], means["iou"], seconds)
        self._pending, self._started = [], time.monotonic()
