"""Drawn ground truth for evaluations."""

import io
import tarfile
from pathlib import Path

import pytest
import torch
from drawn_truth import sa1b_files

NUM_IMAGES = 3


@pytest.fixture(scope="session")
def truth_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn images, ids 100 to 102, two masks each."""
    path = tmp_path_factory.mktemp("truth") / "drawn.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(NUM_IMAGES):
            for name, data in sa1b_files(number).items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(autouse=True)
def one_thread():
    """Small models are no faster on more threads, and far slower beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
