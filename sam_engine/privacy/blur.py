"""Boxes of an image made unrecognisable, for good. No torch."""

import math

import numpy as np
from numpy.typing import NDArray

MARGIN = 0.15
"""Of a box's width and height, added on each side: boxes of detectors end at chin and forehead."""
MAX_CELLS = 4
"""Along each side of a region. Nothing is left of it but the means of at most 16 cells."""
MIN_CELL_PX = 8
"""Along each side of a cell, so that a small region has fewer of them."""


def blur_boxes(pixels: NDArray[np.uint8], boxes_xywh: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the image with its boxes blurred so that they cannot be recovered; the rest as it was.

    Each region becomes the means of a few cells, which a Gaussian as wide as a cell then runs into one
    another. Nothing outside a region goes into it, and the same image and boxes give the same pixels.

    Args:
        pixels: (H, W, 3) uint8, not changed.
        boxes_xywh: (N, 4) in pixels; `MARGIN` is added, and what lies outside of the image is cut off.
    """
    blurred = pixels.copy()
    for box_xywh in boxes_xywh:
        left, top, right, bottom = region_of(box_xywh, (pixels.shape[0], pixels.shape[1]))
        if right > left and bottom > top:
            region = np.ascontiguousarray(blurred[top:bottom, left:right])
            blurred[top:bottom, left:right] = _blurred(region)
    return blurred


def region_of(box_xywh: NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the whole pixels of an image of (H, W) that are blurred for a box: left, top, right, bottom."""
    x, y, width, height = (float(value) for value in box_xywh)
    left, right = x - MARGIN * width, x + (1 + MARGIN) * width
    top, bottom = y - MARGIN * height, y + (1 + MARGIN) * height
    return (
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(size[1], math.ceil(right)),
        min(size[0], math.ceil(bottom)),
    )


def _blurred(region: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a region of which only the means of its cells are left."""
    import cv2  # late: `tools.export --help` comes by here

    height, width = region.shape[:2]
    columns, rows = (min(MAX_CELLS, max(1, side // MIN_CELL_PX)) for side in (width, height))
    cells = cv2.resize(region, (columns, rows), interpolation=cv2.INTER_AREA)
    large = cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)
    sigmas = {"sigmaX": width / columns / 2, "sigmaY": height / rows / 2}
    smooth = cv2.GaussianBlur(large, (0, 0), borderType=cv2.BORDER_REPLICATE, **sigmas)
    return np.asarray(smooth, dtype=np.uint8)
