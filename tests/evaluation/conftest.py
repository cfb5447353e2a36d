"""Drawn ground truth for evaluations."""

from pathlib import Path

import pytest
import torch

from tests.helpers.drawn_data import write_tar


@pytest.fixture(scope="session")
def truth_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn images, ids 100 to 102, two masks each."""
    return write_tar(tmp_path_factory.mktemp("truth") / "drawn.tar", range(3))


@pytest.fixture(autouse=True)
def one_thread():
    """Small models are no faster on more threads, and far slower beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
