"""Resizing of images and prompts to the model's input."""

import numpy as np
import torch
from torch.nn import functional as F

from sam_engine.ops.resize import ResizeLongestSide


def test_torch_image_is_resized_with_antialiasing() -> None:
    """The longer of the last two dimensions becomes the target length, with antialiased bilinear weights.

    segment_anything 1.0 takes the target from the batch and channel dimensions instead, a mistake.
    """
    image = torch.rand(2, 3, 300, 400, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(image, (192, 256), mode="bilinear", antialias=True)

    assert torch.equal(ResizeLongestSide(256).apply_image_torch(image), expected)


def test_torch_image_keeps_one_pixel() -> None:
    """An extreme aspect ratio leaves a row."""
    assert ResizeLongestSide(256).apply_image_torch(torch.zeros(1, 3, 1, 900)).shape == (1, 3, 1, 256)


def test_flipped_view_of_the_target_size_becomes_a_tensor() -> None:
    """A BGR to RGB view that needs no resizing comes back as memory of its own that torch accepts."""
    image = np.arange(8 * 4 * 3, dtype=np.uint8).reshape(8, 4, 3)
    resized = ResizeLongestSide(8).apply_image(image[..., ::-1])

    assert torch.equal(torch.as_tensor(resized), torch.tensor(image).flip(-1))
    assert not np.shares_memory(resized, image)


def test_float64_points_stay_float64() -> None:
    """The grid's points are scaled in float64, where float32 would move one in eight by a rounding step."""
    points = torch.tensor([[0.1, 0.2]], dtype=torch.float64)
    scaled = ResizeLongestSide(1024).apply_coords_torch(points, (300, 700))

    assert scaled.dtype == torch.float64
    assert torch.equal(scaled[0, 0], points[0, 0] * (1024 / 700))


def test_prompts_are_not_changed_in_place() -> None:
    """The caller's points are left alone."""
    points = np.ones((1, 2))
    tensor = torch.ones(1, 2)
    ResizeLongestSide(1024).apply_coords(points, (10, 10))
    ResizeLongestSide(1024).apply_coords_torch(tensor, (10, 10))

    assert points.tolist() == [[1, 1]]
    assert tensor.tolist() == [[1, 1]]
