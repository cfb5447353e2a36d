"""The training loop on reduced models."""

import csv
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sam_engine.build_sam import build_architecture
from sam_engine.errors import CheckpointError
from sam_engine.training.checkpoint import load_state
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data.batches import Batch, StepBatches
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.data.packing import pack
from sam_engine.training.held_out import HeldOut
from sam_engine.training.steps import train
from sam_engine.training.trainer import LAST, WEIGHTS, Trainer
from tests.helpers.reference_models import SMALL_TINY, make_learning_tiny


def settings(output: Path, **changes: object) -> TrainConfig:
    """Two images and two prompts a step, up to three rounds from the third step."""
    values = {
        "image_size": 64,
        "images_per_step": 2,
        "prompts_per_image": 2,
        "total_steps": 8,
        "warmup_steps": 2,
        "interactive_from_step": 2,
        "log_steps": 1,
        **changes,
    }
    return TrainConfig(output=str(output), **values)


def run(
    dataset: PackedDataset, config: TrainConfig, *, stop_at: int | None = None, seed: int = 0
) -> list[float]:
    """Train from the last checkpoint, if any; return the losses of the steps done."""
    trainer = Trainer(make_learning_tiny(seed), config)
    if (Path(config.output) / LAST).exists():
        trainer.resume(Path(config.output))
    losses = []

    def report(step: int, values: dict[str, float]) -> None:
        losses.append(values["loss"])
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    train(trainer, StepBatches(dataset, config), report=report)
    return losses


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_run_equals_an_undisturbed_one(dataset: PackedDataset, tmp_path: Path, optimizer: str):
    """Stopped by SIGTERM after five steps and resumed in a new model, a run has the same losses."""
    whole = run(dataset, settings(tmp_path / "whole", optimizer=optimizer))
    parts = run(dataset, settings(tmp_path / "parts", optimizer=optimizer), stop_at=5)
    assert len(parts) == 5
    parts += run(dataset, settings(tmp_path / "parts", optimizer=optimizer), seed=1)

    assert parts == whole
    ours, theirs = (load_state(tmp_path / name / WEIGHTS).tensors for name in ("parts", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch has the legacy flags alone")
def test_float32_is_not_rounded_in_training(
    dataset: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Torch's default for convolutions on CUDA is TF32; forwards and backwards they are float32's."""
    config = settings(tmp_path, total_steps=1)
    trainer, seen = Trainer(make_learning_tiny(), config), []
    trainer.device = torch.device("cuda")
    monkeypatch.setattr(Batch, "to", lambda batch, device: batch)

    def look(*_: object) -> None:
        seen.append(torch.backends.cudnn.conv.fp32_precision)

    handles = [trainer.sam.image_encoder.register_forward_pre_hook(look)]
    handles.append(next(p for p in trainer.sam.parameters() if p.requires_grad).register_hook(look))
    trainer.rounds.register_forward_pre_hook(look)
    trainer.train_step(StepBatches(dataset, config).from_step(0))

    assert len(seen) >= 2
    assert set(seen) == {"ieee"}


def test_schedule_may_be_shortened_when_resuming(dataset: PackedDataset, tmp_path: Path):
    """``total_steps`` is not part of the checkpoint."""
    run(dataset, settings(tmp_path, total_steps=100), stop_at=3)

    assert len(run(dataset, settings(tmp_path, total_steps=5))) == 2


def test_log_has_a_line_for_each_interval(dataset: PackedDataset, tmp_path: Path):
    """The log can be read as a table, across a resumption, too."""
    run(dataset, settings(tmp_path, total_steps=6, log_steps=2), stop_at=4)
    run(dataset, settings(tmp_path, total_steps=6, log_steps=2))

    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6"]


def test_checkpoint_of_another_architecture_is_refused(dataset: PackedDataset, tmp_path: Path):
    """Resuming a larger model from it names the file."""
    run(dataset, settings(tmp_path, total_steps=1))
    torch.manual_seed(0)
    other = Trainer(build_architecture(replace(SMALL_TINY, prompt_embed_dim=64)), settings(tmp_path))

    with pytest.raises(CheckpointError, match=r"last\.safetensors: made for another architecture"):
        other.resume(tmp_path)


def test_damaged_checkpoint_is_refused(dataset: PackedDataset, tmp_path: Path):
    """A truncated file is named, and nothing is trained over it."""
    run(dataset, settings(tmp_path, total_steps=1))
    data = (tmp_path / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(data[: len(data) // 2])

    with pytest.raises(CheckpointError, match=r"last\.safetensors: not a training checkpoint"):
        Trainer(make_learning_tiny(), settings(tmp_path)).resume(tmp_path)


def test_accumulated_batches_have_the_gradients_of_the_whole(dataset: PackedDataset, tmp_path: Path):
    """Four images at once or one by one, through three rounds: the same gradients but for float sums."""
    gradients = []
    for accumulate in (1, 4):
        config = settings(
            tmp_path,
            images_per_step=4,
            accumulate=accumulate,
            interactive_from_step=0,
            extra_round_fraction=1.0,
            clip_grad_norm=1e9,
        )
        trainer = Trainer(make_learning_tiny(), config)
        values, _ = trainer.train_step(StepBatches(dataset, config).from_step(0))
        gradients.append(
            torch.cat([p.grad.flatten() for p in trainer.parameters.values() if p.grad is not None])
        )
    assert values["rounds"] == 3

    whole, accumulated = gradients
    assert (accumulated - whole).norm() < 1e-5 * whole.norm()


def overfit(tar: Path, folder: Path, *, seed: int, enough: float = 1.0) -> tuple[Trainer, list[float]]:
    """Train on eight images, jittered, by clicks and noisy boxes, for 200 steps at most.

    At 128 px logits are 32 x 32, and a drawn shape is about ten of them wide. At 64 px it is five, of which
    the outer two are half covered, and the mean IoU gets stuck at 0.9.

    Returns:
        The trainer, and the mean IoU of ten steps by step; it stops where this exceeds ``enough``.
    """
    pack(DataConfig(sources=[str(tar)], short_side=96), folder / "packed.npz")
    config = settings(
        folder,
        data=DataConfig(whole_image_fraction=1.0),
        image_size=128,
        images_per_step=8,
        prompts_per_image=4,
        total_steps=200,
        warmup_steps=10,
        learning_rate=3e-3,
        trunk_learning_rate=1e-3,
        interactive_from_step=200,
        seed=seed,
    )
    trainer = Trainer(make_learning_tiny(seed, config.image_size), config)
    batches = StepBatches(PackedDataset(folder / "packed.npz"), config).from_step(0)
    ious: list[float] = []
    means = [0.0]
    while trainer.step < config.total_steps and means[-1] <= enough:
        ious.append(trainer.train_step(batches)[0]["iou"])
        means.append(sum(ious[-10:]) / 10)
    return trainer, means


def test_reduced_model_learns_eight_images(drawn_tar: Path, tmp_path: Path):
    """Its answers to clicks and boxes on eight images exceed a mean IoU of 0.5 well within 100 steps."""
    trainer, means = overfit(drawn_tar, tmp_path, seed=0, enough=0.5)

    assert means[-1] > 0.5
    assert means[10] < 0.3
    assert trainer.step <= 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_eight_images_are_overfitted(drawn_tar: Path, tmp_path: Path, seed: int):
    """After 200 steps the averaged weights exceed 0.9 as they are used: ranked, one click or one box."""
    trainer, means = overfit(drawn_tar, tmp_path, seed=seed)
    scores = HeldOut(PackedDataset(tmp_path / "packed.npz"), 8).score(trainer)

    assert means[-1] > 0.93
    assert min(scores.values()) > 0.9
