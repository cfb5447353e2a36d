"""Tensors come out of files with their values, and nothing else comes out."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sam_engine.checkpoints.resolve import load_state_dict
from sam_engine.errors import CheckpointError


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_values_come_back_as_float32(tmp_path: Path, suffix: str) -> None:
    """Half-precision files load as float32, integers stay, names are the original ones."""
    state = {
        "module.image_encoder.a": torch.tensor([0.5, 2]).half(),
        "module.mask_decoder.b": torch.tensor([3]),
    }
    path = tmp_path / f"half{suffix}"
    if suffix == ".pth":
        torch.save({"model": state, "epoch": 7}, path)
    else:
        save_file(state, path)
    loaded = load_state_dict(path)

    assert {name: (value.dtype, value.tolist()) for name, value in loaded.items()} == {
        "image_encoder.a": (torch.float32, [0.5, 2.0]),
        "mask_decoder.b": (torch.int64, [3]),
    }


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_environment_cannot_make_loading_unsafe(
    tmp_path: Path, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Where torch was told to run code from checkpoints, nothing is loaded."""
    (tmp_path / "mine.pth").write_bytes(tiny_bytes)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", value)

    with pytest.raises(CheckpointError, match=r"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD .* unset it"):
        load_state_dict(tmp_path / "mine.pth")


def test_damaged_values_are_a_checkpoint_error(tmp_path: Path) -> None:
    """Damage that only torch finds is reported like all other."""
    state: dict[str, Tensor] = {"image_encoder.a": torch.zeros(1000)}
    path = tmp_path / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-2000])

    with pytest.raises(CheckpointError, match=r"old.pth: torch cannot read it"):
        load_state_dict(path)
