"""YOLO's polygons: what they keep of a mask, and what is said of what they lose."""

import cv2
import numpy as np
import pytest

from sam_engine.dataset.reader import open_dataset
from sam_engine.formats.export import export_dataset
from sam_engine.formats.yolo import polygon_of
from tests.helpers.dataset_builder import image, rectangle_mask, write_dataset


def filled(polygon, size):
    """A polygon as readers fill it."""
    drawn = np.zeros(size, np.uint8)
    cv2.fillPoly(drawn, [np.round(polygon).astype(np.int32)], 1)
    return drawn.astype(bool)


def disc(size, x, y, radius):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_a_mask_without_holes_is_kept():
    """One part, no hole: the filled polygon is the mask."""
    mask = disc((60, 80), 33, 28, 17)

    assert np.array_equal(filled(polygon_of(mask), mask.shape), mask)


def test_parts_become_one_polygon():
    """Three parts are joined by lines that go there and back: hardly a pixel beside them is filled."""
    mask = disc((90, 120), 25, 25, 14) | disc((90, 120), 90, 30, 10) | disc((90, 120), 60, 70, 12)
    drawn = filled(polygon_of(mask), mask.shape)

    assert (drawn & mask).sum() == mask.sum()
    assert (drawn & ~mask).sum() < 150


def test_masks_too_thin_for_a_polygon_have_none():
    """A single pixel, and two."""
    assert len(polygon_of(rectangle_mask(20, 20, 3, 4, 1, 1))) == 0
    assert len(polygon_of(rectangle_mask(20, 20, 3, 4, 2, 1))) == 0


def test_labels_are_relative_and_the_loss_is_measured(tmp_path):
    """Coordinates lie in [0, 1]; a ring loses its hole and a pixel its label, and both are said."""
    ring = disc((60, 80), 40, 30, 20) & ~disc((60, 80), 40, 30, 10)
    masks = [ring, rectangle_mask(60, 80, 3, 4, 1, 1), rectangle_mask(60, 80, 0, 0, 8, 6)]
    write_dataset(tmp_path / "data", [image(0, b"a.jpg", masks, size=(60, 80))])
    summary = export_dataset(open_dataset(tmp_path / "data"), tmp_path / "yolo", to="yolo")
    lines = (tmp_path / "yolo/labels/000000000000.txt").read_text().splitlines()
    whole = disc((60, 80), 40, 30, 20)
    coordinates = np.array([float(value) for line in lines for value in line.split()[1:]])

    assert summary.num_masks == 3
    assert len(lines) == 2
    assert {line.split()[0] for line in lines} == {"0"}
    assert coordinates.min() >= 0
    assert coordinates.max() <= 1
    assert summary.polygons.num_lost == 1
    assert summary.polygons.mean_iou == pytest.approx((ring.sum() / whole.sum() + 1) / 2)
