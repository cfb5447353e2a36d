"""Drawn training data as an SA-1B-format tar."""

from pathlib import Path

import pytest
import torch
from drawn_data import write_tar

from sam_engine.training.config import DataConfig
from sam_engine.training.packed import PackedDataset
from sam_engine.training.packing import pack


@pytest.fixture(scope="session")
def drawn_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight drawn images, ids 100 to 107, two masks each."""
    return write_tar(tmp_path_factory.mktemp("drawn") / "drawn.tar")


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
