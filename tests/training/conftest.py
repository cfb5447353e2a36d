"""Drawn training data, packed."""

from pathlib import Path

import pytest
import torch

from sam_engine.training.config import DataConfig
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.data.packing import pack


@pytest.fixture(scope="module")
def dataset(drawn_tar: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    """The drawn images, packed."""
    path = tmp_path_factory.mktemp("packed") / "packed.npz"
    pack(DataConfig(sources=[str(drawn_tar)], short_side=96), path)
    return PackedDataset(path)


@pytest.fixture(autouse=True)
def one_thread():
    """Small models are no faster on more threads, and far slower beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
