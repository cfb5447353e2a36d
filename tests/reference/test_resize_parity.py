"""`ResizeLongestSide` maps images, points and boxes as that of ``segment_anything`` 1.0 does."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from sam_engine.ops.resize import ResizeLongestSide

pytestmark = pytest.mark.reference

SIZES = [(480, 640), (640, 480), (1024, 1024), (1500, 2250), (33, 7), (1024, 3), (2, 1025)]
"""Upscaled, downscaled, unchanged and extreme, as (H, W)."""


@pytest.fixture
def reference(segment_anything: ModuleType) -> Any:
    """The reference's transform to 1024 px."""
    return segment_anything.utils.transforms.ResizeLongestSide(1024)


@pytest.mark.parametrize("size", SIZES)
def test_image_is_the_references(reference: Any, size: tuple[int, int]) -> None:
    """Resized images have the same bytes."""
    image = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)

    assert np.array_equal(ResizeLongestSide(1024).apply_image(image), reference.apply_image(image))


@pytest.mark.parametrize("size", SIZES)
def test_points_and_boxes_are_the_references(reference: Any, size: tuple[int, int]) -> None:
    """Points and boxes are scaled with the same float64 operations."""
    ours = ResizeLongestSide(1024)
    points = np.random.default_rng(0).uniform(0, 1000, size=(5, 2, 2))
    boxes = np.random.default_rng(1).integers(1000, size=(7, 4))

    assert np.array_equal(ours.apply_coords(points, size), reference.apply_coords(points, size))
    assert np.array_equal(ours.apply_boxes(boxes, size), reference.apply_boxes(boxes, size))


@pytest.mark.parametrize("size", SIZES)
def test_torch_points_and_boxes_are_the_references(reference: Any, size: tuple[int, int]) -> None:
    """Float32 tensors are scaled with the same float32 operations, integer ones become float32."""
    ours = ResizeLongestSide(1024)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(5, 2, 2, generator=generator) * 1000
    boxes = torch.randint(1000, (7, 4), generator=generator)

    assert torch.equal(ours.apply_coords_torch(points, size), reference.apply_coords_torch(points, size))
    assert torch.equal(ours.apply_boxes_torch(boxes, size), reference.apply_boxes_torch(boxes, size))
    assert ours.apply_boxes_torch(boxes, size).dtype == torch.float32


def test_preprocess_shape_is_the_references(reference: Any) -> None:
    """Every aspect ratio for which the reference yields an image yields the same size."""
    sizes = [(h, w) for h in range(1, 1500, 13) for w in (*range(1, 2500, 17), 2048)]  # 2048: exact halves
    expected = {size: reference.get_preprocess_shape(*size, 1024) for size in sizes}

    assert {size: ResizeLongestSide.get_preprocess_shape(*size, 1024) for size in sizes} == {
        size: (max(1, h), max(1, w)) for size, (h, w) in expected.items()
    }


def test_extreme_aspect_ratio_keeps_one_pixel(reference: Any) -> None:
    """An image of 1 x 5000 becomes 1 x 1024, where the reference asks for no rows and fails."""
    image = np.zeros((1, 5000, 3), np.uint8)
    with pytest.raises(ValueError, match="height and width must be > 0"):
        reference.apply_image(image)

    assert ResizeLongestSide(1024).apply_image(image).shape == (1, 1024, 3)
