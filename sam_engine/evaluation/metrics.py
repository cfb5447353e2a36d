"""How good masks are, and how good a guess without looking would be. N masks of (H, W) pixels."""

from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DISC_FRACTIONS = tuple(float(f) for f in np.geomspace(0.01, 0.4, 24))
"""Radii that the image-blind disc may have, relative to the longer side of the image."""


def mask_iou(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU of boolean masks (..., H, W), broadcast against each other; 0 where both are empty."""
    overlap = (predicted & truth).sum(dim=(-2, -1))
    union = (predicted | truth).sum(dim=(-2, -1))
    return overlap / union.clamp(min=1)


def disc_ious(mask: NDArray[np.bool_], point: tuple[float, float]) -> NDArray[np.float64]:
    """Return the IoU of a mask (H, W) with discs round ``point`` (x, y), one of each radius.

    The discs are cut at the image's edge. Radii: `DISC_FRACTIONS` of the longer side.
    """
    height, width = mask.shape
    x, y = np.arange(width) - point[0], np.arange(height) - point[1]
    distances = np.sqrt(x[None, :] ** 2 + y[:, None] ** 2)
    radii = np.array(DISC_FRACTIONS) * max(height, width)
    within = np.searchsorted(radii, distances, side="left")  # index of the smallest disc that holds the pixel
    areas = np.bincount(within.ravel(), minlength=len(radii) + 1)[:-1].cumsum()
    overlaps = np.bincount(within[mask], minlength=len(radii) + 1)[:-1].cumsum()
    return np.asarray(overlaps / np.maximum(1, areas + mask.sum() - overlaps))


def best_discs(ious: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean IoU of the best fixed radius, and that of the best three with the best for each mask.

    Radii are chosen on the very masks they are scored on, which favours the baseline.

    Args:
        ious: (N, number of radii).
    """
    single = float(ious.mean(axis=0).max())
    triples = combinations(range(ious.shape[1]), 3)
    oracle = max(float(ious[:, list(triple)].max(axis=1).mean()) for triple in triples)
    return single, oracle


def centre_click(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the pixel (x, y) at a mask's centre of mass if inside, else the pixel farthest from its edge."""
    import cv2

    rows, columns = np.nonzero(mask)
    x, y = round(float(columns.mean())), round(float(rows.mean()))
    if not mask[y, x]:
        padded = np.pad(mask, 1).astype(np.uint8)  # the image's border is an edge, too
        distances = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(distances.argmax()), mask.shape)  # type: ignore[assignment]
    return float(x), float(y)


def random_clicks(
    mask: NDArray[np.bool_], number: int, seed: int | tuple[int, ...]
) -> list[tuple[float, float]]:
    """Return pixels (x, y) drawn evenly from a mask, with replacement; the same seed draws the same."""
    rows, columns = np.nonzero(mask)
    picks = np.random.default_rng(seed).integers(len(rows), size=number)
    return [(float(columns[pick]), float(rows[pick])) for pick in picks]


def ellipse_iou(mask: NDArray[np.bool_], box_xyxy: tuple[float, ...]) -> float:
    """Return the IoU of a mask (H, W) with the ellipse that touches all sides of a box, ends exclusive."""
    height, width = mask.shape
    left, top, right, bottom = box_xyxy
    x = (np.arange(width) + 0.5 - (left + right) / 2) / max(1e-9, (right - left) / 2)
    y = (np.arange(height) + 0.5 - (top + bottom) / 2) / max(1e-9, (bottom - top) / 2)
    ellipse = x[None, :] ** 2 + y[:, None] ** 2 <= 1
    return float((ellipse & mask).sum() / max(1, (ellipse | mask).sum()))


def tight_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Return the XYXY box of a mask in pixels, right and bottom exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Pearson's correlation; 0 where one of the two is constant."""
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def as_tensor(masks: list[NDArray[np.bool_]]) -> Tensor:
    """Stack masks (H, W) to a boolean tensor (N, H, W)."""
    return torch.from_numpy(np.stack(masks))
