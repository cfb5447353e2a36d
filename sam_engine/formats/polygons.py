"""Masks as polygons, for formats that have nothing else: how they are drawn, and what they lose."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MIN_CORNERS = 3


@dataclass(frozen=True, kw_only=True)
class PolygonLoss:
    """What polygons cost the masks that were written as such."""

    mean_iou: float
    """Of the filled polygons with their masks; 1 if there are none."""
    num_lost: int
    """Masks that have no polygon, being empty or too thin for one; they are left out."""


@dataclass(kw_only=True)
class PolygonCount:
    """What polygons have cost until now."""

    ious: list[float] = field(default_factory=list)
    num_lost: int = 0

    def loss(self) -> PolygonLoss:
        """Return the mean and the number."""
        mean_iou = float(np.mean(self.ious)) if self.ious else 1.0
        return PolygonLoss(mean_iou=mean_iou, num_lost=self.num_lost)


def outlines_of(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the outer outlines of the parts of an (H, W) mask along the edges of its pixels.

    Each is (N, 2) as (x, y). Filled as pycocotools does it they are the mask with its holes closed. Parts
    are as large as 8 neighbours make them. An empty mask has none.
    """
    import cv2  # late: `tools.export --help` comes by here

    # Of a mask of twice the size the outline runs through 2x or 2x + 1, which are the two edges of pixel x.
    doubled = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [_without_straight((contour[:, 0].astype(np.int64) + 1) // 2) for contour in contours]


def _without_straight(corners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a closed outline without its repeated points, and those in the middle of a straight line."""
    corners = corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]
    steps = np.sign(corners - np.roll(corners, 1, axis=0))
    turns = (steps != np.roll(steps, -1, axis=0)).any(axis=1)
    return corners[np.flatnonzero(turns)]


def polygon_of(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the outline of an (H, W) mask as one polygon, (N, 2) as (x, y) of the middles of pixels.

    The outer outlines of its parts are joined: from each part the line goes on to the nearest corner of the
    next, and in the end back the same way. Fewer than three corners, or none, are left of thin masks.
    """
    import cv2  # late: `tools.export --help` comes by here

    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    parts = [contour[:, 0].astype(np.float64) for contour in contours if len(contour) >= MIN_CORNERS]
    if not parts:
        return np.zeros((0, 2))
    parts.sort(key=len, reverse=True)
    return np.concatenate(list(_joined(parts)))


def _joined(parts: Sequence[NDArray[np.float64]]) -> Iterator[NDArray[np.float64]]:
    """Yield closed outlines so that they are one: each begins and ends nearest to where the last began."""
    yield parts[0]
    yield parts[0][:1]
    here = parts[0][0]
    way_back = []
    for part in parts[1:]:
        nearest = int(((part - here) ** 2).sum(axis=1).argmin())
        turned = np.roll(part, -nearest, axis=0)
        yield turned
        yield turned[:1]
        way_back.append(here)
        here = turned[0]
    for corner in reversed(way_back):
        yield corner[None]


def drawn_iou(mask: NDArray[np.bool_], polygon: NDArray[np.float64]) -> float:
    """Return the IoU of a mask with a polygon filled as OpenCV does it."""
    import cv2

    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(filled, [np.round(polygon).astype(np.int32)], 1)
    union = np.logical_or(mask, filled).sum()
    return float(np.logical_and(mask, filled).sum() / union) if union else 1.0
