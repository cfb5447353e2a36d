"""A step of training, resumable because it depends on nothing but the state and its number.

On a CPU that is to the bit. On CUDA, what is float32 is not rounded to TF32 either, but some gradients are
added up in any order.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sam_engine.errors import CheckpointError
from sam_engine.modeling.precision import cuda_tf32
from sam_engine.modeling.sam import Sam
from sam_engine.training.checkpoint import load_state, save_state, save_tensors
from sam_engine.training.config import TrainConfig
from sam_engine.training.data.batches import Batch
from sam_engine.training.losses import PromptLosses, loss_of_step
from sam_engine.training.muon import Muon
from sam_engine.training.optimiser import freeze, learning_rate_scale, parameter_groups
from sam_engine.training.ranks import Ranks
from sam_engine.training.rounds import PromptRounds

LAST = "last.safetensors"
"""Everything that a run needs to go on."""
WEIGHTS = "model.safetensors"
"""The averaged weights alone: a checkpoint for ``model.checkpoint``."""
BEST = "best.safetensors"
"""Those of them that scored best on the held-out images."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum")
"""What optimisers remember of a parameter, each what it has."""
MEANS = ("loss", "mask_loss", "iou_error", "iou", "last_iou")
"""What the log shows of the prompts of a step, before what it shows of the step itself."""


class Trainer:
    """A model, its optimiser and its average, at some step of a run; all processes of a run have the same."""

    def __init__(
        self, sam: Sam, config: TrainConfig, ranks: Ranks | None = None, device: torch.device | None = None
    ) -> None:
        """Move the model to where it is trained.

        Args:
            sam: The same weights in every process.
            config: Of the run.
            ranks: Which process this is; None if there is no other.
            device: This process's; None for ``config.device``.
        """
        self.config = config
        self.ranks = ranks or Ranks()
        self.device = device or torch.device(config.device)
        self.sam = sam.to(self.device).train()
        freeze(sam, config)
        for parameter in sam.parameters():  # kernels channels last: 1.7 times as fast in bf16 on a CPU
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.rounds = PromptRounds(sam, config)
        self._module: nn.Module = self.rounds
        if self.ranks.size > 1:
            self._module = DistributedDataParallel(
                self.rounds,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                find_unused_parameters=True,  # the number of rounds decides what is used
            )
        self.parameters = dict(sam.named_parameters())
        self.ema = {name: tensor.detach().clone() for name, tensor in sam.state_dict().items()}
        groups = parameter_groups(sam, config)
        self.optimizer = Muon(groups) if config.optimizer == "muon" else torch.optim.AdamW(groups)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.step = 0
        self.best_score = -math.inf
        """Of the averaged weights so far, on held-out images."""

    def train_step(
        self, batches: Iterator[Batch], asked_to_stop: Callable[[], bool] = lambda: False
    ) -> tuple[dict[str, float], bool]:
        """Learn from the batches of a step.

        Args:
            batches: The next ``config.accumulate`` are taken, equally large. They have the gradients of the
                whole.
            asked_to_stop: Whether this process was.

        Returns:
            What the log shows of the step, and whether any process was asked to stop: the same in each.
        """
        config = self.config
        scale = learning_rate_scale(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale
        self.optimizer.zero_grad(set_to_none=True)
        num_rounds = self._draw_rounds()
        parts = []
        for number, batch in enumerate(islice(batches, config.accumulate), 1):
            with self._gradients_shared(number == config.accumulate), cuda_tf32(self.device, False):
                rounds = self._module(batch.to(self.device), num_rounds, loss_of_step(self.step, config))
                loss = torch.stack([losses.total.mean() for losses in rounds]).mean()
                self.scaler.scale(loss / config.accumulate).backward()
            parts.append(_means(loss.detach(), rounds))
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), config.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self._update_average()
        values = torch.cat([torch.stack(parts).mean(dim=0), norm.new_full((1,), float(asked_to_stop()))])
        *means, stops = self.ranks.mean(values).tolist()
        shown = {"rounds": float(num_rounds), "grad_norm": norm.item(), "lr": scale * config.learning_rate}
        return dict(zip(MEANS, means, strict=True)) | shown, stops > 0

    def _gradients_shared(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context of a backward pass: processes add up their gradients in a step's last one."""
        if is_last or not isinstance(self._module, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._module.no_sync()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Sam]:
        """Yield the model with its averaged weights, ready for inference; it is trained on afterwards."""
        current = {name: tensor.clone() for name, tensor in self.sam.state_dict().items()}
        self.sam.load_state_dict(self.ema)
        self.sam.eval()
        try:
            yield self.sam
        finally:
            self.sam.load_state_dict(current)
            self.sam.train()

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
        progress = {"best_score": repr(self.best_score), "scaler": json.dumps(self.scaler.state_dict())}
        save_state(output / LAST, tensors, self._metadata() | progress, self.config.checkpoint_file_mb)
        save_tensors(output / WEIGHTS, self.ema, self._metadata())

    def save_best(self, output: Path, score: float) -> bool:
        """Keep the averaged weights if no earlier ones scored higher; return whether they were kept."""
        if score <= self.best_score:
            return False
        self.best_score = score
        save_tensors(output / BEST, self.ema, self._metadata() | {"score": f"{score:.6f}"})
        return True

    def _metadata(self) -> dict[str, str]:
        """Return what every file of the run says about itself."""
        return {"step": str(self.step), "config": json.dumps(asdict(self.config), sort_keys=True)}

    def resume(self, output: Path) -> None:
        """Continue from the last checkpoint; the learning rate follows this run's own schedule.

        Raises:
            CheckpointError: The checkpoint is damaged, or of another architecture.
        """
        path = output / LAST
        state = load_state(path)
        tensors = state.tensors  # on the host, from where each is copied to its own
        try:
            self.sam.load_state_dict(_with_prefix(tensors, "model."))
        except RuntimeError as error:
            raise CheckpointError(f"{path}: made for another architecture ({error})") from error
        for name, tensor in _with_prefix(tensors, "ema.").items():
            self.ema[name].copy_(tensor)
        for name, parameter in self.parameters.items():
            # What has had no gradient yet has no moments.
            moments = {key: tensors[f"{key}.{name}"] for key in MOMENTS if f"{key}.{name}" in tensors}
            if moments and ("momentum" not in moments or self.config.optimizer == "muon"):
                self.optimizer.state[parameter] = {
                    key: tensor if key == "step" else torch.empty_like(parameter).copy_(tensor).detach()
                    for key, tensor in moments.items()
                }
        self.step = state.step
        self.best_score = float(state.metadata.get("best_score", -math.inf))
        scaler = json.loads(state.metadata.get("scaler", "{}"))
        if scaler and self.scaler.is_enabled():
            self.scaler.load_state_dict(scaler)

    def _moments(self, parameter: nn.Parameter) -> list[str]:
        """Return the names of what the optimiser remembers of a parameter."""
        return [key for key in MOMENTS if key in self.optimizer.state[parameter]]


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
