"""Weights for all tests of checkpoints."""

import pytest
import torch

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import ARCHITECTURES


@pytest.fixture(scope="module")
def tiny_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small file with the header of tiny."""
    with torch.device("meta"):
        shapes = build_architecture(ARCHITECTURES["tiny"]).state_dict()
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in shapes.items()}, path)
    return path.read_bytes()
