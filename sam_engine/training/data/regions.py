"""Regions of even colour as training masks: what can be seen but has no name, such as sky, water and walls.

Annotated data sets cover things of a few classes; a model trained on those alone gives no answer to a click
on the ground. These masks cost nothing, follow visible edges, and are as freely licensed as their images.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

SHORT_SIDE = 200
"""Pixels; regions are found at this size."""
SPATIAL_RADIUS, COLOUR_RADIUS = 8, 14
"""Of the mean-shift filter, in pixels and in levels of 8-bit Lab."""
MAX_STEP = 4
"""Neighbours whose filtered colours differ by more, in any channel, belong to different regions."""
MIN_FRACTION, MAX_FRACTION = 0.008, 0.85
"""Of the image; regions outside are left out."""
MAX_HOLE_FRACTION = 0.003
"""Of the image; smaller holes are filled."""


def colour_regions(image: NDArray[np.uint8]) -> list[NDArray[np.bool_]]:
    """Return disjoint connected masks (H, W) of an (H, W, 3) RGB image, smooth within and closed by edges.

    Source of the filter: Comaniciu and Meer 2002, "Mean Shift: A Robust Approach toward Feature
    Space Analysis".
    """
    height, width = image.shape[:2]
    factor = min(1.0, SHORT_SIDE / min(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    flat = np.asarray(cv2.pyrMeanShiftFiltering(small, SPATIAL_RADIUS, COLOUR_RADIUS, maxLevel=1), np.uint8)
    masks = []
    for component in _even_components(flat):
        region = _smooth(component)
        if region.mean() >= MIN_FRACTION:
            grey = cv2.resize(region.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_LINEAR)
            masks.append(np.asarray(grey >= 128))
    return masks


def _even_components(flat: NDArray[np.uint8]) -> list[NDArray[np.bool_]]:
    """Return components whose neighbouring pixels differ by `MAX_STEP` at most, of a size in range."""
    height, width = flat.shape[:2]
    state = np.zeros(
        (height + 2, width + 2), np.uint8
    )  # as floodFill wants it: 0 open, 1 done, 2 just filled
    inner = state[1:-1, 1:-1]
    step = (MAX_STEP,) * 3
    flags = 4 | (2 << 8) | cv2.FLOODFILL_MASK_ONLY
    components = []
    for seed in range(height * width):
        y, x = divmod(seed, width)
        if inner[y, x]:
            continue
        area, _, _, _ = cv2.floodFill(flat, state, (x, y), 0, step, step, flags)
        filled = inner == 2
        if MIN_FRACTION <= area / inner.size <= MAX_FRACTION:
            components.append(filled)
        inner[filled] = 1
    return components


def _smooth(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close gaps, cut threads, keep the largest part and fill its small holes."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    if count < 2:
        return np.zeros_like(mask)
    largest = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~largest).astype(np.uint8), connectivity=4)
    small = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] < MAX_HOLE_FRACTION * mask.size)
    holes = np.isin(labels, small[small > 0])
    return np.asarray(largest | holes)
