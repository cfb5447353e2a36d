"""Checkpoints in one file and in pieces."""

import json
from pathlib import Path

import pytest
import torch

from sam_engine.errors import CheckpointError
from sam_engine.training.checkpoint import export_weights, has_state, load_state, save_state
from tests.helpers import queued_device

TENSORS = {
    "model.a": torch.arange(60000, dtype=torch.float32).reshape(3, 100, 200),
    "model.b": torch.tensor(7.0),
    "ema.half": torch.arange(9000, dtype=torch.float16).reshape(90, 100),
    "ema.none": torch.zeros(0, 4),
    "step.ids": torch.arange(30000),
}
METADATA = {"step": "12", "config": "{}", "best_score": "0.25"}


def assert_is_whole(path: Path) -> None:
    state = load_state(path)
    assert (state.step, state.metadata) == (12, METADATA)
    assert state.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert state.tensors[name].dtype == tensor.dtype
        assert torch.equal(state.tensors[name], tensor)


@pytest.mark.parametrize("file_mb", [None, 0.1, 0.01, 100.0])
def test_a_state_comes_back(tmp_path: Path, file_mb: float | None):
    """In one file or in pieces, of which none exceeds the limit, also where a tensor does."""
    path = tmp_path / "last.safetensors"
    save_state(path, TENSORS, METADATA, file_mb)

    assert_is_whole(path)
    assert has_state(path)
    if file_mb is not None:
        sizes = [piece.stat().st_size for piece in tmp_path.glob("*.safetensors")]
        assert max(sizes) <= file_mb * 10**6
        assert sum(sizes) > 480_000


@pytest.mark.parametrize("file_mb", [None, 0.1])
def test_a_state_is_copied_to_the_host_alone(tmp_path: Path, file_mb: float | None):
    """Saving what is on a device takes no memory there, also of kernels that lie channels last."""
    kernel = torch.arange(90000.0).reshape(100, 9, 10, 10)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    with queued_device.watch() as events:
        tensors = {
            name: queued_device.QueuedTensor(tensor)
            for name, tensor in (TENSORS | {"kernel": kernel}).items()
        }
        before = events.peak_bytes
        save_state(tmp_path / "last.safetensors", tensors, METADATA, file_mb)

    assert events.peak_bytes == before
    assert torch.equal(load_state(tmp_path / "last.safetensors").tensors["kernel"], kernel)


def test_only_the_last_state_is_kept(tmp_path: Path):
    """From pieces to other pieces to one file and back: nothing of an earlier state lies about."""
    path = tmp_path / "last.safetensors"
    save_state(path, TENSORS, METADATA | {"step": "11"}, 0.1)
    save_state(path, TENSORS, METADATA, 0.1)
    names = {piece.name for piece in tmp_path.iterdir()}
    assert all(name.startswith("last-12-") or name == "last.index.json" for name in names)
    assert_is_whole(path)

    save_state(path, TENSORS, METADATA, None)
    assert [piece.name for piece in tmp_path.iterdir()] == ["last.safetensors"]
    save_state(path, TENSORS, METADATA, 0.1)
    assert not path.exists()
    assert_is_whole(path)


def test_an_interrupted_save_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pieces of the next state are nothing before their index is there."""
    path = tmp_path / "last.safetensors"
    save_state(path, TENSORS, METADATA, 0.1)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    real = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (full if "index" in self.name else real)(self, target)
    )
    with pytest.raises(OSError, match="No space"):
        save_state(path, TENSORS, METADATA | {"step": "13"}, 0.1)
    assert_is_whole(path)


def test_a_missing_piece_is_named(tmp_path: Path):
    """A state that was carried over in part is refused."""
    path = tmp_path / "last.safetensors"
    save_state(path, TENSORS, METADATA, 0.1)
    missing = sorted(tmp_path.glob("last-*.safetensors"))[1]
    missing.unlink()

    with pytest.raises(CheckpointError, match=missing.name):
        load_state(path)


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"metadata": {}, "tensors": {}})])
def test_a_damaged_index_is_named(tmp_path: Path, content: str):
    """Also if it is JSON of something else."""
    (tmp_path / "last.index.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"last\.index\.json: not a training checkpoint"):
        load_state(tmp_path / "last.safetensors")


def test_exported_weights_are_half_as_large_and_name_no_folders(tmp_path: Path):
    """They are float16 and say how they were made; files are named without where they were."""
    config = {"output": "/home/ada/run", "seed": 3, "data": {"sources": ["/data/a.tar", "b.tar"]}}
    metadata = {"step": "12", "config": json.dumps(config)}
    save_state(tmp_path / "model.safetensors", {"a": torch.tensor([0.1, 2.0])}, metadata, None)

    export_weights(tmp_path / "model.safetensors", tmp_path / "half.safetensors", {"licence": "CC0"})

    state = load_state(tmp_path / "half.safetensors")
    assert torch.equal(state.tensors["a"], torch.tensor([0.1, 2.0], dtype=torch.float16))
    assert (state.step, state.metadata["licence"]) == (12, "CC0")
    assert json.loads(state.metadata["config"]) == {
        "output": "run",
        "seed": 3,
        "data": {"sources": ["a.tar", "b.tar"]},
    }
