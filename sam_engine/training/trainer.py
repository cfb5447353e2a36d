"""The training loop: resumable to the bit, because a step depends on nothing but the state and its number.

P prompts of all images of a step, M masks for each, (h, w) low-resolution pixels.
"""

import csv
import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from sam_engine.errors import CheckpointError
from sam_engine.modeling.image_encoder import SkipFeatures
from sam_engine.modeling.sam import Sam
from sam_engine.training.checkpoint import load_state, save_tensors
from sam_engine.training.config import TrainConfig
from sam_engine.training.data import LOGIT_STRIDE, Batch
from sam_engine.training.losses import PromptLosses, prompt_losses
from sam_engine.training.prompts import error_clicks

log = logging.getLogger(__name__)

LAST = "last.safetensors"
"""Everything that a run needs to go on."""
WEIGHTS = "model.safetensors"
"""The averaged weights alone: a checkpoint for ``model.checkpoint``."""
MASK_INPUT_LIMIT = 32.0
"""Logits given back as mask prompts are clipped to this."""


class Trainer:
    """A model, its optimiser and its average, at some step of a run."""

    def __init__(self, sam: Sam, config: TrainConfig) -> None:
        self.config = config
        self.device = torch.device(config.device)
        self.sam = sam.to(self.device).train()
        for parameter in sam.parameters():  # kernels channels last: 1.7 times as fast in bf16 on a CPU
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.parameters = dict(sam.named_parameters())
        self.ema = {name: tensor.detach().clone() for name, tensor in sam.state_dict().items()}
        self.optimizer = torch.optim.AdamW(_parameter_groups(sam, config), betas=(0.9, 0.999))
        self.step = 0

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Learn from a batch and return what the log shows of it."""
        batch = batch.to(self.device)
        scale = learning_rate_scale(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale
        rounds = self._forward(batch)
        loss = torch.stack([losses.total.mean() for losses in rounds]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.clip_grad_norm)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        first, last = rounds[0], rounds[-1]
        return {
            "loss": loss.item(),
            "mask_loss": first.mask.mean().item(),
            "iou_error": first.iou_error.mean().item(),
            "iou": first.actual_iou.gather(1, first.chosen[:, None]).mean().item(),
            "last_iou": last.actual_iou.gather(1, last.chosen[:, None]).mean().item(),
            "rounds": float(len(rounds)),
            "grad_norm": norm.item(),
            "lr": scale * self.config.learning_rate,
        }

    def _forward(self, batch: Batch) -> list[PromptLosses]:
        """Return the losses of each interactive round.

        A single click has three answers, of which the best is trained; a box or several prompts have one.
        """
        config, sam = self.config, self.sam
        generator = torch.Generator().manual_seed(hash((config.seed, self.step)) % 2**63)
        num_rounds = self._draw_rounds(generator)
        with self._autocast():
            images = (batch.images - sam.pixel_mean) / sam.pixel_std
            features, skips = sam.image_encoder.forward_features(
                images.contiguous(memory_format=torch.channels_last)
            )
        features = _per_prompt(features, config.prompts_per_image)
        if skips is not None:
            skips = (
                _per_prompt(skips[0], config.prompts_per_image),
                _per_prompt(skips[1], config.prompts_per_image),
            )
        points = batch.points[:, None]  # (P, N, 2), grows by one each round
        labels = torch.ones(points.shape[:2], device=self.device)
        mask_input: Tensor | None = None
        rounds = []
        for number in range(num_rounds):
            logits, predicted_iou = self._decode(features, skips, points, labels, batch, mask_input)
            is_clear = batch.is_box if number == 0 else torch.ones_like(batch.is_box)
            losses = _losses_by_clarity(logits, predicted_iou, batch.targets, is_clear)
            rounds.append(losses)
            if number + 1 == num_rounds:
                break
            shown = _shown_mask(logits.detach(), predicted_iou.detach(), is_clear)  # (P, h, w)
            click, label = error_clicks(shown, batch.targets, LOGIT_STRIDE, generator)
            points = torch.cat([points, click[:, None]], dim=1)
            labels = torch.cat([labels, label[:, None]], dim=1)
            mask_input = shown[:, None].clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT)
        return rounds

    def _decode(
        self,
        features: Tensor,
        skips: SkipFeatures | None,
        points: Tensor,
        labels: Tensor,
        batch: Batch,
        mask_input: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the logits (P, 4, h, w) and IoU (P, 4) of all mask tokens.

        Prompts that start from a box have two corners where the others have their first click and a padding
        token, so that both kinds are decoded together.
        """
        encoder = self.sam.prompt_encoder
        by_click, dense = encoder(points=(points, labels), boxes=None, masks=mask_input)
        later = (points[:, 1:], labels[:, 1:]) if points.shape[1] > 1 else None
        by_box, _ = encoder(points=later, boxes=batch.boxes, masks=None)
        sparse = torch.where(batch.is_box[:, None, None], by_box, by_click)
        with self._autocast():
            logits, iou = self.sam.mask_decoder.predict_masks(
                image_embeddings=features,
                image_pe=encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                skip_features=skips,
            )
        return logits.float(), iou.float()

    def _draw_rounds(self, generator: torch.Generator) -> int:
        """Return how many interactive rounds this step has."""
        rounds = 1
        if self.step >= self.config.interactive_from_step:
            while rounds < self.config.max_rounds:
                if torch.rand((), generator=generator).item() >= self.config.extra_round_fraction:
                    break
                rounds += 1
        return rounds

    def _autocast(self) -> torch.autocast:
        """Return the context of encoder and decoder; positions and losses stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

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
    batches: Callable[[int], Batch],
    report: Callable[[int, dict[str, float]], None] = lambda step, values: None,
) -> int | None:
    """Train to the end of the schedule, saving now and then; a SIGTERM or SIGINT saves and stops.

    Args:
        trainer: New or resumed.
        batches: The batch of a step.
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


def learning_rate_scale(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step relative to its peak: linear warm-up, then a cosine to 0.01."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, config.total_steps - config.warmup_steps))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def _parameter_groups(sam: Sam, config: TrainConfig) -> list[dict[str, Any]]:
    """Return optimiser groups: the trunk learns slower, and only matrices and kernels decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in sam.named_parameters():
        in_trunk = name.startswith("image_encoder.trunk.")
        decays = parameter.ndim > 1 and "embed" not in name and "token" not in name.split(".")[-2]
        groups.setdefault((in_trunk, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak_lr": config.trunk_learning_rate if in_trunk else config.learning_rate,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (in_trunk, decays), parameters in groups.items()
    ]


def _per_prompt(features: Tensor, prompts_per_image: int) -> Tensor:
    """Repeat (B, C, h, w) for each prompt: (P, C, h, w)."""
    return features.repeat_interleave(prompts_per_image, dim=0)


def _losses_by_clarity(
    logits: Tensor, predicted_iou: Tensor, targets: Tensor, is_clear: Tensor
) -> PromptLosses:
    """Train mask token 0 where a prompt is clear (P,), else the best of the other three."""
    ambiguous = prompt_losses(logits[:, 1:], predicted_iou[:, 1:], targets)
    single = prompt_losses(logits[:, :1], predicted_iou[:, :1], targets)
    return PromptLosses(
        total=torch.where(is_clear, single.total, ambiguous.total),
        mask=torch.where(is_clear, single.mask, ambiguous.mask),
        iou_error=torch.where(is_clear, single.iou_error, ambiguous.iou_error),
        actual_iou=torch.where(is_clear[:, None], single.actual_iou, ambiguous.actual_iou),
        chosen=torch.where(is_clear, single.chosen, ambiguous.chosen),
    )


def _shown_mask(logits: Tensor, predicted_iou: Tensor, is_clear: Tensor) -> Tensor:
    """Return the logits (P, h, w) that an annotator would see: token 0, or the best ranked of the others."""
    best = predicted_iou[:, 1:].argmax(dim=1) + 1
    picks = torch.where(is_clear, 0, best)
    return logits[torch.arange(len(logits), device=logits.device), picks]


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
