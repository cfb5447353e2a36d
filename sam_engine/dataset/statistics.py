"""What the masks of a dataset are like, counted by bin as shards are read."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_MASK = "annotations.list.element."
MEASURE_COLUMNS = tuple(
    _MASK + leaf
    for leaf in (
        "area",
        "predicted_iou",
        "stability_score",
        "bbox.list.element",
        "segmentation.size.list.element",
    )
)
"""Leaves of the masks that are read: everything but run lengths and points."""

MASKS_AN_IMAGE = np.array([0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, np.inf])
"""Edges of bins: from one up to, but not including, the next."""
SIDE_SHARE = np.linspace(0, 1, 26)
"""Of the square root of a mask's area, relative to that of its image."""
SCORE = np.concatenate([[-np.inf], np.linspace(0.4, 1.0, 25), [np.inf]])
CENTRES = 32
"""Cells a side of the map of mask centres, which lies over every image alike."""


class Statistics:
    """Counts of images and masks by bin. `add` and `to_json` may be called from different threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._masks_an_image = np.zeros(len(MASKS_AN_IMAGE) - 1, np.int64)
        self._side_share = np.zeros(len(SIDE_SHARE) - 1, np.int64)
        self._predicted_iou = np.zeros(len(SCORE) - 1, np.int64)
        self._stability_score = np.zeros(len(SCORE) - 1, np.int64)
        self._centres = np.zeros((CENTRES, CENTRES), np.int64)

    def add(self, num_masks: NDArray[np.int32], measures: Sequence[pa.Table]) -> None:
        """Count the images and masks of a shard.

        Args:
            num_masks: (N,) masks of each image.
            measures: Tables with `MEASURE_COLUMNS`.
        """
        masks = [pc.list_flatten(table["annotations"]) for table in measures]
        area = _concatenated(masks, "area")
        size = _concatenated(masks, "segmentation", "size").reshape(-1, 2)  # (N, 2) as (H, W)
        box = _concatenated(masks, "bbox").reshape(-1, 4)  # (N, 4) XYWH
        centres = (box[:, :2] + (box[:, 2:] + 1) / 2) / np.maximum(size[:, ::-1], 1)
        columns, rows = np.clip((centres * CENTRES).astype(int), 0, CENTRES - 1).T
        with self._lock:
            self._masks_an_image += np.histogram(num_masks, MASKS_AN_IMAGE)[0]
            share = np.sqrt(area / np.maximum(size.prod(axis=1), 1))
            self._side_share += np.histogram(share, SIDE_SHARE)[0]
            self._predicted_iou += np.histogram(_concatenated(masks, "predicted_iou"), SCORE)[0]
            self._stability_score += np.histogram(_concatenated(masks, "stability_score"), SCORE)[0]
            np.add.at(self._centres, (rows, columns), 1)

    def to_json(self) -> dict[str, Any]:
        """Return bins and counts; an open end is null."""
        with self._lock:
            return {
                "masks_an_image": _bins(MASKS_AN_IMAGE, self._masks_an_image),
                "side_share": _bins(SIDE_SHARE, self._side_share),
                "predicted_iou": _bins(SCORE, self._predicted_iou),
                "stability_score": _bins(SCORE, self._stability_score),
                "centres": self._centres.tolist(),
            }


def _bins(edges: NDArray[np.float64], counts: NDArray[np.int64]) -> dict[str, Any]:
    shown = [round(float(edge), 6) if np.isfinite(edge) else None for edge in edges]
    return {"edges": shown, "counts": counts.tolist()}


def _concatenated(masks: Sequence[Any], *path: str) -> NDArray[np.float64]:
    """Return one leaf of all masks, lists laid end to end."""
    arrays = []
    for part in masks:
        values = pc.struct_field(part, list(path))
        if pa.types.is_list(values.type):
            values = pc.list_flatten(values)
        arrays.append(np.asarray(values.to_numpy(), dtype=np.float64))
    return np.concatenate(arrays) if arrays else np.zeros(0)
