"""Drawn training data: bright shapes on dark ground, as an SA-1B-format tar."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_utils

NUM_IMAGES = 8
SIZE = 96


def draw(number: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return an image (96, 96, 3) of a disc and a rectangle, and their masks."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 60, (SIZE, SIZE, 3)).astype(np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE]
    radius = rng.integers(14, 20)
    disc = (x - rng.integers(22, 30)) ** 2 + (y - rng.integers(24, 72)) ** 2 < radius**2
    left, top = rng.integers(54, 62), rng.integers(8, 40)
    rectangle = (x >= left) & (x < left + 28) & (y >= top) & (y < top + rng.integers(24, 44))
    image[disc] = (250, 210, 60)
    image[rectangle] = (90, 200, 250)
    return image, [disc, rectangle]


@pytest.fixture(scope="session")
def drawn_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight drawn images, ids 100 to 107, two masks each."""
    path = tmp_path_factory.mktemp("drawn") / "drawn.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(NUM_IMAGES):
            image, masks = draw(number)
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=95)
            annotations = []
            for mask in masks:
                rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
                annotations.append({"segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}})
            record = {"image": {"image_id": 100 + number}, "annotations": annotations}
            for suffix, data in (("jpg", buffer.getvalue()), ("json", json.dumps(record).encode())):
                member = tarfile.TarInfo(f"sa_{100 + number}.{suffix}")
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
