"""Recall of class-agnostic masks, as pycocotools' COCOeval computes it, but fast.

D masks found in an image, by descending score; G masks of the truth; T thresholds on IoU.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""COCO's bounds in pixels, both ends inclusive."""
MAX_MASKS = (100, 1000)
NEVER = np.iinfo(np.int64).max


def in_range(areas: NDArray[np.float64], name: str) -> NDArray[np.bool_]:
    """Say of each area (N,) whether it lies in a range of COCO's."""
    low, high = AREA_RANGES[name]
    return np.asarray((np.asarray(areas) >= low) & (np.asarray(areas) <= high))


def match_ranks(ious: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which mask (T, G) finds each mask of the truth at each of `IOU_THRESHOLDS`; `NEVER` for none.

    Masks are matched one after the other, by descending score, each to the free mask of the truth that it
    overlaps most, the last of equals. A mask matched by rank r is found by any budget of more than r masks.

    Args:
        ious: (D, G), rows by descending score.
    """
    num_thresholds, num_truth = len(IOU_THRESHOLDS), ious.shape[1]
    ranks = np.full((num_thresholds, num_truth), NEVER)
    if num_truth == 0:
        return ranks
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    for rank in np.flatnonzero(ious.max(axis=1, initial=0) >= thresholds[0]):
        free = np.where(ranks == NEVER, ious[rank], -1.0)  # (T, G)
        best = num_truth - 1 - free[:, ::-1].argmax(axis=1)
        hits = np.flatnonzero(free[np.arange(num_thresholds), best] >= thresholds)
        ranks[hits, best[hits]] = rank
    return ranks


@dataclass
class RecallCounter:
    """Adds up images; `recalls` is what they come to."""

    _ranks: dict[str, list[NDArray[np.int64]]] = field(
        default_factory=lambda: {name: [] for name in AREA_RANGES}
    )

    def add(self, ious: NDArray[np.float64], areas: NDArray[np.float64]) -> None:
        """Count an image: IoU (D, G), rows by descending score, and the areas (G,) of its truth."""
        for name, ranks in self._ranks.items():
            # Masks outside the range are no truth here; what finds them costs nothing.
            ranks.append(match_ranks(ious[:, in_range(areas, name)]))

    def recall_curve(self, area: str, max_masks: int) -> NDArray[np.float64] | None:
        """Return the recall (T,) at each IoU threshold; None where there is no truth of that size."""
        ranks = np.concatenate(self._ranks[area], axis=1)  # (T, G of all images)
        return np.asarray((ranks < max_masks).mean(axis=1)) if ranks.shape[1] else None

    def average_recall(self, area: str, max_masks: int) -> float | None:
        """Return AR: the mean of `recall_curve`."""
        curve = self.recall_curve(area, max_masks)
        return None if curve is None else float(curve.mean())
