"""COCO instances read: the masks are those of pycocotools, or an error that names the place."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from sam_engine.errors import ConfigError, ImageError, InputError
from sam_engine.formats.open import open_source
from tests.helpers.drawn_data import (
    assert_masks,
    draw,
    rle,
    write_coco,
)


def test_coco_masks_are_pycocotools(tmp_path: Path):
    """Polygons, run lengths compressed and not: the masks are those that pycocotools makes of them."""
    disc, rectangle = draw(0)[1]
    polygons = [[10.5, 10, 40, 12.25, 30, 50], [60, 60, 90, 60, 90, 97.5, 60, 90]]
    flat = rectangle.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    plain = {"size": [96, 96], "counts": np.diff(edges, prepend=0, append=flat.size).tolist()}
    source = open_source(write_coco(tmp_path, [polygons, plain, rle(disc)]), str(tmp_path / "images"))

    expected = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, 96, 96))).astype(bool)
    assert len(source) == 1
    assert source.read(0).image_id == source.image_id(0) == 7
    assert_masks(source.read(0), [expected, rectangle, disc])


def test_coco_licences_have_their_short_names(tmp_path: Path):
    """Creative Commons licences are told by their address."""
    source = open_source(write_coco(tmp_path, [rle(draw(0)[1][0])]), str(tmp_path / "images"))

    assert source.licence(0) == "CC BY-NC 2.0"


def test_crowds_are_no_masks(tmp_path: Path):
    """COCO's crowd regions cover many things at once."""
    path = write_coco(tmp_path, [rle(draw(0)[1][0])], iscrowd=1)

    with pytest.raises(InputError, match="no image has an annotation that is not a crowd"):
        open_source(path, str(tmp_path / "images"))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3]], "no list of x, y"),
        ([["a", 2, 3, 4, 5, 6]], "no list of x, y"),
        ([[0, 0, 1e9, 0, 0, 5]], "outside of its image"),
        ([[0, 0, float("nan"), 0, 0, 5]], "outside of its image"),
        ({"size": [96, 96], "counts": [5, 4]}, "do not fit an image of 96 x 96"),
        ({"size": [96, 96], "counts": "000"}, "a mask is malformed"),
        ({"size": [5, 5], "counts": "i0"}, r"a mask of \[5, 5\] on an image of \[96, 96\]"),
        ({}, "do not fit an image"),
        (None, "a mask is malformed"),
    ],
)
def test_malformed_coco_annotations_are_that_images_error(tmp_path: Path, segmentation, message: str):
    """Nothing unchecked reaches pycocotools, and the run can leave the image out."""
    source = open_source(write_coco(tmp_path, [segmentation]), str(tmp_path / "images"))

    with pytest.raises(ImageError, match=message):
        source.read(0)


@pytest.mark.parametrize(
    ("content", "images", "message"),
    [
        (json.dumps({"images": []}), ".", "no COCO instances file"),
        ("[]", ".", "no COCO instances file"),
        ("{}", None, "data.images names no folder"),
        ("{}", "nowhere", "there is no folder nowhere"),
    ],
)
def test_what_is_no_coco_file_is_named(tmp_path: Path, content: str, images, message: str):
    """Other JSON, and a missing folder of images, are refused when the source is opened."""
    (tmp_path / "it.json").write_text(content)

    with pytest.raises(ConfigError, match=message):
        open_source(tmp_path / "it.json", images)
