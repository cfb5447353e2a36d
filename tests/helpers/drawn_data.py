"""Drawn training data: bright shapes on dark ground, in every form that training reads."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from sam_engine.formats.source import AnnotatedImage, Source
from tests.helpers.dataset_builder import image, write_dataset

NUM_IMAGES = 8
SIZE = 96


def draw(number: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return an image (96, 96, 3) of a disc and a rectangle, and their masks, both below 32 x 32 pixels."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 60, (SIZE, SIZE, 3)).astype(np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE]
    radius = rng.integers(14, 18)
    disc = (x - rng.integers(22, 30)) ** 2 + (y - rng.integers(24, 72)) ** 2 < radius**2
    left, top = rng.integers(54, 62), rng.integers(8, 40)
    rectangle = (x >= left) & (x < left + 28) & (y >= top) & (y < top + rng.integers(24, 36))
    pixels[disc] = (250, 210, 60)
    pixels[rectangle] = (90, 200, 250)
    return pixels, [disc, rectangle]


def rle(mask: np.ndarray) -> dict:
    """Return a mask as compressed COCO run lengths."""
    encoded = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def sa1b_files(number: int) -> dict[str, bytes]:
    """Return the two files of a drawn image, id 100 + number."""
    pixels, masks = draw(number)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    annotations = [{"segmentation": rle(mask)} for mask in masks]
    record = {"image": {"image_id": 100 + number}, "annotations": annotations}
    name = f"sa_{100 + number}"
    return {f"{name}.jpg": buffer.getvalue(), f"{name}.json": json.dumps(record).encode()}


def assert_masks(found, masks) -> None:
    """Assert that an image has just these masks."""
    assert len(found.runs) == len(masks)
    for number, mask in enumerate(masks):
        np.testing.assert_array_equal(found.mask(number), mask)


def read_all(source: Source) -> list[AnnotatedImage]:
    """Return every image of a source in order."""
    return [source.read(index) for index in range(len(source))]


def write_tar(path: Path, numbers: Iterable[int] = range(NUM_IMAGES)) -> Path:
    """Write drawn images as an SA-1B tar, ids from 100 on, two masks each."""
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            for name, data in sa1b_files(number).items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def write_folder(path: Path, count: int = NUM_IMAGES) -> Path:
    """Write the first drawn images as files, as in a tar unpacked."""
    path.mkdir()
    for number in range(count):
        for name, data in sa1b_files(number).items():
            (path / name).write_bytes(data)
    return path


def write_our_dataset(
    root: Path,
    count: int = NUM_IMAGES,
    *,
    masks: Sequence[np.ndarray] | None = None,
    labels: Sequence[str | None] = (),
) -> Path:
    """Write the first drawn images as PNG files and a dataset of them, ids from 0; the last has no masks.

    Args:
        root: Folder for both.
        count: Of images.
        masks: Of each image, in place of those that were drawn.
        labels: Of masks, again and again.
    """
    photos = root / "photos"
    photos.mkdir(parents=True)
    records = []
    for number in range(count):
        pixels, drawn = draw(number)
        path = photos / f"{number}.png"
        Image.fromarray(pixels).save(path)
        found = (drawn if masks is None else masks) if number < count - 1 else []
        record = image(number, path.name.encode(), found, size=(SIZE, SIZE))
        if labels:
            named = zip(record.annotations, cycle(labels), strict=False)
            record = replace(record, annotations=tuple(replace(mask, label=name) for mask, name in named))
        records.append(replace(record, sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    extras = ("annotations.label",) if labels else ()
    write_dataset(root / "dataset", records, input_root=str(photos), extras=extras)
    return root / "dataset"


def write_coco(root: Path, segmentations: list, **annotation: object) -> Path:
    """Write the first drawn image as COCO instances, id 7, and return the file; images/ lies beside it."""
    (root / "images").mkdir(parents=True)
    Image.fromarray(draw(0)[0]).save(root / "images" / "seven.png")
    document = {
        "licenses": [
            {"id": 3, "name": "Attribution", "url": "http://creativecommons.org/licenses/by-nc/2.0/"}
        ],
        "images": [{"id": 7, "file_name": "seven.png", "license": 3}, {"id": 8, "file_name": "absent.png"}],
        "annotations": [
            {"id": i, "image_id": 7, "iscrowd": 0, "segmentation": segmentation, **annotation}
            for i, segmentation in enumerate(segmentations)
        ],
    }
    (root / "instances.json").write_text(json.dumps(document))
    return root / "instances.json"
