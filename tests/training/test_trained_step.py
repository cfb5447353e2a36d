"""What one step changes: weights, their average, rates and rounds."""

from pathlib import Path

import pytest
import torch

from sam_engine.training.checkpoint import has_state, load_state
from sam_engine.training.config import TrainConfig
from sam_engine.training.data.batches import StepBatches
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.held_out import HeldOut
from sam_engine.training.optimiser import learning_rate_scale, trunk_layer
from sam_engine.training.steps import train
from sam_engine.training.trainer import BEST, LAST, WEIGHTS, Trainer
from tests.helpers.reference_models import make_learning_tiny

SIDE = 32


def settings(output: Path, **changes: object) -> TrainConfig:
    values = {
        "image_size": SIDE,
        "images_per_step": 1,
        "prompts_per_image": 2,
        "total_steps": 4,
        "warmup_steps": 2,
        "overlay_steps": 0,
        "log_steps": 1,
        **changes,
    }
    return TrainConfig(output=str(output), **values)


def new_trainer(config: TrainConfig) -> Trainer:
    return Trainer(make_learning_tiny(image_size=SIDE), config)


def snapshot(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_average_follows_the_weights(dataset: PackedDataset, tmp_path: Path):
    """It moves by 1 - (1 + step) / (10 + step) of what lies between, later by 1 - ``ema_decay``."""
    config = settings(tmp_path, ema_decay=0.2, learning_rate=0.01)
    trainer = new_trainer(config)
    expected = snapshot(trainer.sam.state_dict())
    batches = StepBatches(dataset, config).from_step(0)
    for decay in (2 / 11, 0.2, 0.2):
        trainer.train_step(batches)
        for name, tensor in trainer.sam.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor

        torch.testing.assert_close(trainer.ema, expected)


def test_the_average_is_what_is_saved_and_scored(dataset: PackedDataset, tmp_path: Path):
    """Both files of weights hold it, and scores are its own; training goes on from the weights themselves."""
    config = settings(tmp_path)
    trainer = new_trainer(config)
    batches = StepBatches(dataset, config).from_step(0)
    for _ in range(2):
        trainer.train_step(batches)
    trainer.save(tmp_path)
    trainer.save_best(tmp_path, 0.5)
    weights = snapshot(trainer.sam.state_dict())
    score = HeldOut(dataset, 1).score(trainer)
    with trainer.averaged() as sam:
        assert_equal(snapshot(sam.state_dict()), trainer.ema)
        assert not sam.training

    assert trainer.sam.training
    assert_equal(snapshot(trainer.sam.state_dict()), weights)
    for name in (WEIGHTS, BEST):
        assert_equal(load_state(tmp_path / name).tensors, trainer.ema)
    for parameter in trainer.sam.parameters():
        parameter.data.zero_()
    assert HeldOut(dataset, 1).score(trainer) == score


def test_gradients_are_clipped(dataset: PackedDataset, tmp_path: Path):
    """All together to ``clip_grad_norm``; the log has the norm from before."""
    config = settings(tmp_path, clip_grad_norm=0.01)
    trainer = new_trainer(config)
    values, _ = trainer.train_step(StepBatches(dataset, config).from_step(0))
    norms = [p.grad.norm() for p in trainer.parameters.values() if p.grad is not None]

    assert torch.stack(norms).norm().item() == pytest.approx(0.01, rel=1e-3)
    assert values["grad_norm"] > 0.1


def test_every_group_learns_at_its_rate(dataset: PackedDataset, tmp_path: Path):
    """The schedule scales the peak of each group, and the log has that of the decoder."""
    config = settings(tmp_path, trunk_learning_rate=1e-4, layer_decay=0.5, learning_rate=1e-3)
    trainer = new_trainer(config)
    batches = StepBatches(dataset, config).from_step(0)
    for step in range(4):
        values, _ = trainer.train_step(batches)
        scale = learning_rate_scale(step, config)

        assert values["lr"] == pytest.approx(1e-3 * scale)
        for group in trainer.optimizer.param_groups:
            assert group["lr"] == pytest.approx(group["peak_lr"] * scale)


def test_frozen_layers_stay_as_they_are(dataset: PackedDataset, tmp_path: Path):
    """The trainer freezes what it is told to, and trains the layers after it."""
    config = settings(tmp_path, frozen_layers=7)
    trainer = new_trainer(config)
    before = snapshot(trainer.parameters)
    trainer.train_step(StepBatches(dataset, config).from_step(0))

    moved = {
        trunk_layer(name)
        for name, tensor in trainer.parameters.items()
        if not torch.equal(tensor, before[name])
    }
    assert moved == {None, *range(7, 18)}


def drawn_rounds(dataset: PackedDataset, config: TrainConfig) -> list[float]:
    trainer = new_trainer(config)
    batches = StepBatches(dataset, config).from_step(0)
    return [trainer.train_step(batches)[0]["rounds"] for _ in range(config.total_steps)]


def test_rounds_are_drawn_for_each_step(dataset: PackedDataset, tmp_path: Path):
    """One until ``interactive_from_step``, then as many as step and seed say, at most ``max_rounds``."""
    changes = {"total_steps": 10, "interactive_from_step": 3, "extra_round_fraction": 0.7}
    rounds = drawn_rounds(dataset, settings(tmp_path, **changes))

    assert rounds[:3] == [1, 1, 1]
    assert set(rounds[3:]) == {1, 2, 3}
    assert rounds == drawn_rounds(dataset, settings(tmp_path, **changes))
    assert rounds != drawn_rounds(dataset, settings(tmp_path, seed=1, **changes))


def test_all_rounds_are_trained_with_the_loss_of_the_step(dataset: PackedDataset, tmp_path: Path):
    """The step's loss is the mean over its rounds of the loss that the settings name."""
    config = settings(
        tmp_path, loss="focal_dice", interactive_from_step=0, extra_round_fraction=1.0, max_rounds=3
    )
    batch = StepBatches(dataset, config)[0]
    with torch.no_grad():
        rounds = new_trainer(config).rounds(batch, 3, "focal_dice")
    values, _ = new_trainer(config).train_step(iter([batch]))

    means = [losses.total.mean().item() for losses in rounds]
    assert values["loss"] == pytest.approx(sum(means) / 3, rel=1e-5)
    assert max(means) - min(means) > 1e-3


def test_half_precision_rounds_a_little_differently(dataset: PackedDataset, tmp_path: Path):
    """bf16 is used where it is asked for, and its loss is that of fp32 but for a few percent."""
    losses = {}
    for precision in ("fp32", "bf16"):
        config = settings(tmp_path, precision=precision)
        losses[precision] = new_trainer(config).train_step(iter([StepBatches(dataset, config)[0]]))[0]["loss"]

    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)


def test_a_run_saves_on_its_way_in_files_of_the_size_asked_for(dataset: PackedDataset, tmp_path: Path):
    """After ``checkpoint_minutes``, not only at the end; and such a state is resumed from."""
    config = settings(tmp_path, checkpoint_minutes=0.0, checkpoint_file_mb=0.2)
    saved: list[bool] = []
    trainer = new_trainer(config)
    train(
        trainer,
        StepBatches(dataset, config),
        report=lambda step, values: saved.append(has_state(tmp_path / LAST)),
    )
    resumed = new_trainer(config)
    resumed.resume(tmp_path)

    assert saved == [False, True, True, True]
    assert max(path.stat().st_size for path in tmp_path.glob("last-*.safetensors")) <= 200_000
    assert resumed.step == 4
    assert_equal(snapshot(resumed.sam.state_dict()), snapshot(trainer.sam.state_dict()))
