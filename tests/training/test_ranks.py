"""Several processes that share the steps of one run."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from sam_engine.errors import ConfigError
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data.batches import StepBatches
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.data.packing import pack
from sam_engine.training.distributed import with_absolute_paths
from sam_engine.training.ranks import Ranks
from sam_engine.training.trainer import Trainer
from tests.helpers.drawn_data import write_tar
from tests.helpers.reference_models import make_learning_tiny


def settings(folder: Path, num_workers: int, accumulate: int = 1) -> TrainConfig:
    return TrainConfig(
        output=str(folder),
        data=DataConfig(packed=str(folder / "packed.npz")),
        image_size=64,
        images_per_step=4,
        prompts_per_image=2,
        num_workers=num_workers,
        accumulate=accumulate,
        interactive_from_step=0,
        extra_round_fraction=1.0,
        clip_grad_norm=1e9,
    )


def first_steps(config: TrainConfig, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Return the gradients of the first step, and what the log shows of two."""
    torch.set_num_threads(1)
    dataset = PackedDataset(config.data.packed)
    trainer = Trainer(make_learning_tiny(), config, ranks)
    batches = StepBatches(dataset, config, ranks.rank).from_step(0)
    shown, _ = trainer.train_step(batches)
    gradients = torch.cat([p.grad.flatten() for p in trainer.parameters.values() if p.grad is not None])
    # The second process is asked to stop: both must hear of it in the same step.
    again, stopped = trainer.train_step(batches, lambda: ranks.rank == 1)
    return {"gradients": gradients, "shown": torch.tensor([*shown.values(), *again.values(), float(stopped)])}


def run_process(rank: int, size: int, folder: str) -> None:
    """What each process does."""
    warnings.simplefilter("default")  # pytest's "error" is inherited, and torch has deprecated what it offers
    place = Path(folder)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place / 'meet'}", rank=rank, world_size=size
    )
    found = first_steps(settings(place, size, accumulate=2), Ranks(rank, size))
    torch.save(found, place / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradients_of_one_with_twice_the_batch(tmp_path: Path):
    """Each process with two images of each step, one at a time, beside one process with all four."""
    pack(DataConfig(sources=[str(write_tar(tmp_path / "drawn.tar"))], short_side=96), tmp_path / "packed.npz")
    whole = first_steps(settings(tmp_path, 1), Ranks())

    # Forked, they need not import torch; without threads or a device that is allowed.
    torch.multiprocessing.start_processes(run_process, (2, str(tmp_path)), nprocs=2, start_method="fork")

    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(one["gradients"], other["gradients"])
    assert torch.equal(one["shown"], other["shown"])
    assert (one["gradients"] - whole["gradients"]).norm() < 1e-5 * whole["gradients"].norm()
    torch.testing.assert_close(one["shown"][:-1], whole["shown"][:-1], rtol=1e-3, atol=1e-4)
    assert (one["shown"][-1], whole["shown"][-1]) == (1, 0)


def test_a_step_must_be_divisible():
    """Every batch of every process has the same number of images, or means would not be means."""
    with pytest.raises(
        ConfigError, match="images_per_step must be a multiple of accumulate=2 times num_workers=3"
    ):
        TrainConfig(images_per_step=8, accumulate=2, num_workers=3)


def test_every_path_is_absolute_for_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of data, weights and output; what is not given stays so."""
    monkeypatch.chdir(tmp_path)
    data = DataConfig(
        sources=["a.tar", "/b", "s3://bucket/c"],
        images=["c", None, None],
        packed="d.npz",
        sources_csv="e.csv",
    )
    config = TrainConfig(data=data, output="f", init_checkpoint="g", held_out=["h"], held_out_packed="i")

    made = with_absolute_paths(config)

    assert made.data.sources == [str(tmp_path / "a.tar"), "/b", "s3://bucket/c"]
    assert made.data.images == [str(tmp_path / "c"), None, None]
    assert (made.data.packed, made.data.sources_csv) == (str(tmp_path / "d.npz"), str(tmp_path / "e.csv"))
    assert (made.output, made.init_checkpoint) == (str(tmp_path / "f"), str(tmp_path / "g"))
    assert (made.held_out, made.held_out_packed) == ([str(tmp_path / "h")], str(tmp_path / "i"))
    assert made.init_trunk is None


@pytest.mark.slow
@pytest.mark.ray
def test_two_ray_workers_train_as_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same command with num_workers=2 gives the losses of num_workers=1, and leaves what resumes.

    Its paths are relative, and Ray's processes work elsewhere.
    """
    from sam_engine.training.__main__ import main
    from sam_engine.training.run import write_config

    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "drawn.tar")
    data = DataConfig(sources=["drawn.tar"], packed="packed.npz")
    pack(data, "packed.npz")
    losses = {}
    for num_workers in (1, 2):
        config = TrainConfig(
            output=str(num_workers),
            data=data,
            image_size=64,
            images_per_step=2,
            prompts_per_image=2,
            total_steps=2,
            threads=1,
            log_steps=1,
        )
        path = write_config(config)
        assert main([str(path), f"num_workers={num_workers}"]) == 0
        assert main([str(path), f"num_workers={num_workers}", "total_steps=3"]) == 0
        lines = (tmp_path / str(num_workers) / "log.csv").read_text().splitlines()
        losses[num_workers] = [float(line.split(",")[1]) for line in lines[1:]]
        assert json.loads(path.read_text())["num_workers"] == 1

    assert len(losses[1]) == 3
    assert losses[2] == pytest.approx(losses[1], rel=1e-3)
