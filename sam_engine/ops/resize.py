"""Resizing to the model's input frame, its longer side ``target_length``, and of logits back to the image."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

MAX_PIXELS_AT_ONCE = 2**24
"""Logits in full size that exist together where masks are wanted: 64 MiB in float32, and as much besides."""


class ResizeLongestSide:
    """Resize images, points and boxes alike. Sizes are (H, W), points (x, y), boxes XYXY, all in pixels."""

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Return the (H, W) that an image is resized to; no side falls below 1 pixel."""
        scale = long_side_length / max(oldh, oldw)
        return max(1, int(oldh * scale + 0.5)), max(1, int(oldw * scale + 0.5))

    def target_size(self, original_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (H, W) that an image of ``original_size`` is resized to."""
        return self.get_preprocess_shape(*original_size, self.target_length)

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an (H, W, 3) uint8 image with Pillow's antialiased bilinear filter, as the original does."""
        size = self.target_size((image.shape[0], image.shape[1]))
        if size == image.shape[:2]:
            return np.array(image, order="C")  # a copy: torch refuses flipped views
        resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
        return np.array(resized)

    def apply_coords(
        self, coords: NDArray[np.floating], original_size: tuple[int, ...]
    ) -> NDArray[np.float64]:
        """Map points (..., 2) from the original image to the input frame, in float64."""
        old_h, old_w = original_size
        new_h, new_w = self.target_size((old_h, old_w))
        scaled = np.array(coords, dtype=np.float64)
        scaled[..., 0] *= new_w / old_w
        scaled[..., 1] *= new_h / old_h
        return scaled

    def apply_boxes(self, boxes: NDArray[np.floating], original_size: tuple[int, ...]) -> NDArray[np.float64]:
        """Map XYXY boxes (..., 4) from the original image to the input frame; returns (N, 4)."""
        corners = np.asarray(boxes).reshape(-1, 2, 2)
        return self.apply_coords(corners, original_size).reshape(-1, 4)

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Resize a (B, 3, H, W) float image; close to `apply_image`, not equal to it."""
        size = self.target_size((image.shape[-2], image.shape[-1]))
        return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """Map points (..., 2) as `apply_coords` does, in float32 or wider."""
        old_h, old_w = original_size
        new_h, new_w = self.target_size((old_h, old_w))
        scaled = coords.to(torch.promote_types(coords.dtype, torch.float32), copy=True)
        scaled[..., 0] *= new_w / old_w
        scaled[..., 1] *= new_h / old_h
        return scaled

    def apply_boxes_torch(self, boxes: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """Map XYXY boxes (..., 4) as `apply_boxes` does; returns (N, 4)."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)


def upscale_logits(
    logits: Tensor, image_size: int, input_size: tuple[int, ...], original_size: tuple[int, ...]
) -> Tensor:
    """Bring low-resolution logits to the original image, in the original's two bilinear steps.

    Args:
        logits: (P, M, h, w) over the padded square input.
        image_size: Side of that square, in pixels.
        input_size: (H, W) of the image within it.
        original_size: (H, W) wanted.

    Returns:
        (P, M, H, W) logits.
    """
    square = F.interpolate(logits, (image_size, image_size), mode="bilinear", align_corners=False)
    image = square[..., : input_size[0], : input_size[1]]
    return F.interpolate(image, tuple(original_size), mode="bilinear", align_corners=False)


def threshold_in_parts(
    upscale: Callable[[Tensor], Tensor], logits: Tensor, threshold: float, pixels_per_map: int
) -> Tensor:
    """Return the bool masks (P, M, H, W) of logits (P, M, h, w), upscaling few of them at a time.

    Args:
        upscale: Brings logits (p, M, h, w) to the size of the masks.
        logits: At least one.
        threshold: Logits above this are foreground.
        pixels_per_map: Of each map while it is upscaled, at most.
    """
    step = max(1, MAX_PIXELS_AT_ONCE // max(1, pixels_per_map * logits.shape[1]))
    first = upscale(logits[:step]) > threshold
    if len(logits) <= step:
        return first
    masks = first.new_empty(len(logits), *first.shape[1:])
    masks[:step] = first
    del first
    for start in range(step, len(logits), step):
        masks[start : start + step] = upscale(logits[start : start + step]) > threshold
    return masks
