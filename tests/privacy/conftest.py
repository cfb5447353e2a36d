"""A dataset of one photo with a face, which says where it was taken, beside one without."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import ListingRules, sorted_files
from tests.helpers.dataset_builder import image, rectangle_mask, write_dataset

FACE_XYWH = (181.0, 58.0, 89.0, 120.0)
"""Of the astronaut, in pixels of the upright image."""


@pytest.fixture(scope="session")
def astronaut():
    """(512, 512, 3), as scikit-image has it."""
    data = pytest.importorskip("skimage.data", reason="comes with the extra demo")
    return data.astronaut()


@pytest.fixture
def dataset(tmp_path, astronaut):
    """photos/a.jpg is stored on its side, with GPS, a maker and a thumbnail; b.png is noise; out/ says so."""
    (tmp_path / "photos").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it upright
    exif[0x010F] = "SECRETMAKER"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    stored = np.ascontiguousarray(np.rot90(astronaut))
    Image.fromarray(stored).save(tmp_path / "photos/a.jpg", quality=95, exif=exif, comment=b"SECRETPLACE")
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photos/b.png")
    records = [
        replace(
            image(0, b"a.jpg", [rectangle_mask(512, 512, 9, 9, 99, 99)], size=(512, 512)), exif_orientation=6
        ),
        image(1, b"b.png", [rectangle_mask(64, 80, 1, 1, 9, 9)], size=(64, 80)),
    ]
    digests = [
        hashlib.sha256((tmp_path / "photos" / name).read_bytes()).hexdigest() for name in ("a.jpg", "b.png")
    ]
    records = [replace(record, sha256=digest) for record, digest in zip(records, digests, strict=True)]
    photos = str(tmp_path / "photos")
    files = sorted_files(open_input(photos, ListingRules()))
    write_dataset(tmp_path / "out", records, input_root=photos, files=files)
    return tmp_path / "out"
