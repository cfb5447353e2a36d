"""What a run scores, keeps and draws on its way."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sam_engine.training.checkpoint import load_state
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data.batches import StepBatches
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.held_out import HeldOut
from sam_engine.training.steps import train
from sam_engine.training.trainer import BEST, LAST, Trainer
from tests.helpers.reference_models import make_learning_tiny


def settings(output: Path, **changes: object) -> TrainConfig:
    values = {
        "image_size": 64,
        "images_per_step": 1,
        "prompts_per_image": 2,
        "total_steps": 4,
        "log_steps": 1,
        "overlay_steps": 0,
        **changes,
    }
    return TrainConfig(output=str(output), **values)


def told_score(trainer: Trainer) -> dict[str, float]:
    """Return scores that are known beforehand."""
    return {"click": {1: 0.2, 2: 0.5, 3: 0.4, 4: 0.5}.get(trainer.step, 0.45)}


def test_the_best_weights_are_kept(dataset: PackedDataset, tmp_path: Path):
    """Of equal scores the first; and a resumed run knows what it has to beat."""
    config = settings(tmp_path, evaluate_steps=1)
    train(Trainer(make_learning_tiny(), config), StepBatches(dataset, config), score=told_score)
    assert load_state(tmp_path / BEST).step == 2

    config = settings(tmp_path, evaluate_steps=1, total_steps=5)
    trainer = Trainer(make_learning_tiny(), config)
    trainer.resume(tmp_path)
    train(trainer, StepBatches(dataset, config), score=told_score)

    assert load_state(tmp_path / BEST).metadata["score"] == "0.500000"
    rows = (tmp_path / "scores.csv").read_text().split()
    assert rows == ["step,click", "1,0.2", "2,0.5", "3,0.4", "4,0.5", "5,0.45"]


def test_scoring_does_not_disturb_training(dataset: PackedDataset, tmp_path: Path):
    """With held-out images and pictures at every step, the weights are those of a run without."""
    states = []
    for name, changes in (("a", {}), ("b", {"overlay_steps": 1, "evaluate_steps": 1})):
        config = settings(tmp_path / name, total_steps=2, **changes)
        score = HeldOut(dataset, 2).score if changes else None
        train(Trainer(make_learning_tiny(), config), StepBatches(dataset, config), score=score)
        states.append(load_state(tmp_path / name / LAST).tensors)

    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    header, *rows = (tmp_path / "b" / "scores.csv").read_text().split()
    assert header == "step,click,oracle,box"
    assert len(rows) == 2
    assert all(0 <= float(value) <= 1 for row in rows for value in row.split(",")[1:])


def test_a_picture_shows_truth_and_answer(dataset: PackedDataset, tmp_path: Path):
    """A row for each of four crops; of each prompt the crop with the truth over it, then with the answer."""
    config = settings(tmp_path, total_steps=1, overlay_steps=1)
    batches = StepBatches(dataset, config)
    train(Trainer(make_learning_tiny(), config), batches)

    picture = np.asarray(Image.open(tmp_path / "overlays" / "step-0000001.png"))
    assert picture.shape == (4 * 64, 2 * 2 * 64, 3)
    batch = batches.fixed(4)
    truth = torch.nn.functional.interpolate(batch.targets[None, :1], scale_factor=4)[0, 0].numpy()
    crop, tile = batch.images[0].permute(1, 2, 0).numpy(), picture[:64, :64].astype(float)
    is_red = np.ptp(tile - [255, 40, 40], axis=2) < 30  # the click is drawn over it
    outside = (truth == 0) & ~is_red
    assert np.abs(tile - crop)[outside].mean() < 5
    assert np.abs(tile - crop)[truth == 1].mean() > 20


def test_loaders_prepare_the_same_batches(dataset: PackedDataset, tmp_path: Path):
    """Prepared ahead in other processes, from any step on, batches are what they are in this one."""
    config = settings(tmp_path, accumulate=1, total_steps=6)
    ahead = settings(tmp_path, accumulate=1, total_steps=6, data=DataConfig(loaders=1))

    for one, other in zip(
        StepBatches(dataset, config).from_step(4), StepBatches(dataset, ahead).from_step(4), strict=True
    ):
        assert all(torch.equal(tensor, getattr(other, name)) for name, tensor in vars(one).items())


def test_a_stop_is_heeded_and_saved(dataset: PackedDataset, tmp_path: Path):
    """Asked to stop, as by a driver on another machine, a run saves where it is and says so."""
    config = settings(tmp_path)
    trainer = Trainer(make_learning_tiny(), config)

    stopped_by = train(trainer, StepBatches(dataset, config), must_stop=lambda: trainer.step >= 2)

    assert stopped_by == 15
    assert load_state(tmp_path / LAST).step == 2
