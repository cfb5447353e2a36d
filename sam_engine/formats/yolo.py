"""YOLO's segmentation labels: polygons, one text file for each image, and ``data.yaml``.

The format has polygons only: holes are lost, parts of a mask are joined by a line there and back, outlines
run through the middles of pixels. How much that costs is measured and said: the mean IoU of what is written.

Source: docs of Ultralytics, "Instance Segmentation Datasets Overview": ``<class> x1 y1 x2 y2 ...``, each
coordinate relative to the side of the image.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam_engine.dataset.corrections import Correction
from sam_engine.dataset.originals import Originals
from sam_engine.dataset.reader import Dataset
from sam_engine.files import refuse_used, write_atomically, writing_to
from sam_engine.formats.each_image import ImagesToWrite
from sam_engine.formats.source import ExportSummary
from sam_engine.ops.rle import decode_counts

DATA = """# Ultralytics YOLO, task segment. One class: Segment Anything finds things without naming them.
path: .
train: images
val: images
names:
  0: object
"""
MIN_CORNERS = 3


@dataclass(frozen=True, kw_only=True)
class PolygonLoss:
    """What polygons cost the masks that were written as such."""

    mean_iou: float
    """Of the filled polygons with their masks; 1 if there are none."""
    num_lost: int
    """Masks too thin for a polygon, which are left out."""


def export_yolo(
    dataset: Dataset,
    output: Path,
    *,
    originals: Originals | None = None,
    corrections: Mapping[int, Sequence[Correction]] | None = None,
) -> tuple[ExportSummary, PolygonLoss]:
    """Write ``labels/<image id>.txt``, ``images/<image id>.jpg`` where it can be had, and ``data.yaml``.

    Args:
        dataset: What to export.
        output: Folder for the files; it must be new or empty.
        originals: Where to take the images from; None writes labels only.
        corrections: By image id, applied to what is written.

    Raises:
        ConfigError: ``output`` is in use.
        ShardError: The dataset is damaged.
        StorageError: The output cannot be written.
    """
    refuse_used(output)
    each = ImagesToWrite(dataset, originals=originals, corrections=corrections)
    ious: list[float] = []
    num_lost = 0
    with writing_to(output):
        write_atomically(output / "data.yaml", DATA)
        for record, masks, jpeg in each.images():
            name = f"{record.image_id:012d}"
            if jpeg is not None:
                write_atomically(output / "images" / f"{name}.jpg", jpeg)
            lines = []
            for _, annotation in masks:
                mask = decode_counts(annotation.counts, annotation.size)
                polygon = polygon_of(mask)
                if len(polygon) < MIN_CORNERS:
                    num_lost += 1
                    continue
                ious.append(_iou(mask, polygon))
                relative = polygon / np.array(mask.shape[::-1])
                lines.append("0 " + " ".join(f"{value:.6f}" for value in relative.ravel().tolist()))
            write_atomically(output / "labels" / f"{name}.txt", "".join(line + "\n" for line in lines))
    mean_iou = float(np.mean(ious)) if ious else 1.0
    return each.summary(), PolygonLoss(mean_iou=mean_iou, num_lost=num_lost)


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


def _iou(mask: NDArray[np.bool_], polygon: NDArray[np.float64]) -> float:
    """Return the IoU of a mask with a polygon filled as OpenCV does it."""
    import cv2

    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(filled, [np.round(polygon).astype(np.int32)], 1)
    union = np.logical_or(mask, filled).sum()
    return float(np.logical_and(mask, filled).sum() / union) if union else 1.0
