"""Drawn ground truth: a bright disc on the left of a dark image, a bright rectangle on the right."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from sam_engine.ops.rle import encode_mask

HEIGHT, WIDTH = 64, 96


def draw(number: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return an image (64, 96, 3) and the masks of its disc and its rectangle."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = (x - 24) ** 2 + (y - 30 - number) ** 2 < (12 + number) ** 2
    rectangle = (x >= 60) & (x < 84) & (y >= 10) & (y < 40 + number)
    image = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    image[disc] = (250, 210, 60)
    image[rectangle] = (90, 200, 250)
    return image, [disc, rectangle]


def sa1b_files(number: int) -> dict[str, bytes]:
    """Return the two files of an image, its id 100 + number."""
    image, masks = draw(number)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    annotations = [{"segmentation": {"size": [HEIGHT, WIDTH], "counts": encode_mask(mask)}} for mask in masks]
    record = {"image": {"image_id": 100 + number}, "annotations": annotations}
    return {
        f"sa_{100 + number}.jpg": buffer.getvalue(),
        f"sa_{100 + number}.json": json.dumps(record).encode(),
    }


def write_tar(path: Path, numbers: Iterable[int]) -> Path:
    """Write drawn images and their masks as an SA-1B tar; return it."""
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            for name, data in sa1b_files(number).items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path
