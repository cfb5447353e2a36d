"""Are two datasets of the same images the same? Masks are matched one to one, differences accounted for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sam_engine.config import AmgConfig
from sam_engine.errors import ShardError
from sam_engine.ops.rle import counts_to_runs
from sam_engine.structures import Annotation, ImageRecord

MIN_IOU = 0.5
"""Masks below this are different things and never matched."""
BORDERLINE = 1e-3
"""A score this near to its threshold may fall on either side from rounding alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A mask of the first dataset and its counterpart in the second, as indices into the annotations."""

    first: int
    second: int
    iou: float
    is_identical: bool
    """The run lengths are the same bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Counts over images. Sums of comparisons are comparisons."""

    num_images: int = 0
    num_images_with_other_count: int = 0
    """Images whose number of masks differs."""
    num_images_with_other_status: int = 0
    num_first: int = 0
    """Masks of the first dataset."""
    num_second: int = 0
    num_identical: int = 0
    """Pairs with the same bytes."""
    num_999: int = 0
    """Pairs with IoU >= 0.999, identical ones included."""
    num_99: int = 0
    """Pairs with IoU >= 0.99, likewise."""
    num_different: int = 0
    """Masks on either side without a counterpart at IoU >= 0.99."""
    num_borderline: int = 0
    """Those of them that a threshold explains; see `is_borderline`."""
    max_predicted_iou_error: float = 0.0
    """Largest difference between counterparts at IoU >= 0.99."""
    max_stability_error: float = 0.0

    def __add__(self, other: "Comparison") -> "Comparison":
        """Return the comparison of the images of both."""
        totals = {}
        for field in fields(self):
            pair = (getattr(self, field.name), getattr(other, field.name))
            totals[field.name] = max(pair) if field.name.startswith("max_") else sum(pair)
        return Comparison(**totals)

    @property
    def shares(self) -> dict[str, float]:
        """Share of masks with a counterpart, the smaller of both directions; 1.0 if none is missing."""
        larger = max(self.num_first, self.num_second)
        counts = {
            "identical": self.num_identical,
            "iou_0.999": self.num_999,
            "iou_0.99": self.num_99,
        }
        return {name: count / larger if larger else 1.0 for name, count in counts.items()}


def compare_datasets(
    first: Iterable[ImageRecord], second: Iterable[ImageRecord], config: AmgConfig
) -> Iterator[tuple[int, Comparison]]:
    """Yield the image id and comparison of each image.

    Args:
        first: Records in order of their image id.
        second: Records of the same images in the same order.
        config: Thresholds that decide what is borderline.

    Raises:
        ShardError: The datasets are not of the same images.
    """
    for record, other in zip_records(first, second):
        yield record.image_id, compare_images(record, other, config)


def zip_records(
    first: Iterable[ImageRecord], second: Iterable[ImageRecord]
) -> Iterator[tuple[ImageRecord, ImageRecord]]:
    """Pair the records of two datasets of the same images."""
    others = iter(second)
    for record in first:
        other = next(others, None)
        if other is None or other.path != record.path:
            got = "nothing" if other is None else ascii(other.path)
            raise ShardError(f"image {record.image_id} is {record.path!a} in one dataset, {got} in the other")
        yield record, other
    extra = next(others, None)
    if extra is not None:
        raise ShardError(f"image {extra.image_id}, {extra.path!a}, is only in the second dataset")


def compare_images(first: ImageRecord, second: ImageRecord, config: AmgConfig) -> Comparison:
    """Match the masks of one image and count."""
    a, b = first.annotations, second.annotations
    matches = match_masks(a, b)
    close = [match for match in matches if match.iou >= 0.99]
    rest = [[m for i, m in enumerate(a) if i not in {c.first for c in close}]]
    rest += [[m for i, m in enumerate(b) if i not in {c.second for c in close}]]
    borderline = sum(is_borderline(mask, [*a, *b], config) for masks in rest for mask in masks)
    return Comparison(
        num_images=1,
        num_images_with_other_count=int(len(a) != len(b)),
        num_images_with_other_status=int(first.status != second.status),
        num_first=len(a),
        num_second=len(b),
        num_identical=sum(match.is_identical for match in matches),
        num_999=sum(match.iou >= 0.999 for match in matches),
        num_99=len(close),
        num_different=len(rest[0]) + len(rest[1]),
        num_borderline=borderline,
        max_predicted_iou_error=max(
            (abs(a[m.first].predicted_iou - b[m.second].predicted_iou) for m in close), default=0.0
        ),
        max_stability_error=max(
            (abs(a[m.first].stability_score - b[m.second].stability_score) for m in close), default=0.0
        ),
    )


def match_masks(first: Sequence[Annotation], second: Sequence[Annotation]) -> list[Match]:
    """Match masks one to one: identical bytes first, then pairs by falling IoU, down to `MIN_IOU`.

    Taking the best pair first differs from an optimal assignment only among masks that overlap two others
    by more than half, and never at the IoU of 0.99 that the shares speak of.
    """
    places: dict[str, list[int]] = {}
    for j, annotation in enumerate(second):
        places.setdefault(annotation.counts, []).append(j)
    matches = []
    for i, annotation in enumerate(first):
        if places.get(annotation.counts):
            j = places[annotation.counts].pop(0)
            matches.append(Match(first=i, second=j, iou=1.0, is_identical=True))
    left = sorted(set(range(len(first))) - {match.first for match in matches})
    right = sorted(set(range(len(second))) - {match.second for match in matches})
    ious = mask_ious([first[i] for i in left], [second[j] for j in right])
    while ious.size and ious.max() >= MIN_IOU:
        row, column = divmod(int(ious.argmax()), ious.shape[1])
        best = float(ious[row, column])
        matches.append(Match(first=left[row], second=right[column], iou=best, is_identical=False))
        ious[row, :], ious[:, column] = -1, -1
    return matches


def mask_ious(first: Sequence[Annotation], second: Sequence[Annotation]) -> NDArray[np.float64]:
    """Return the (first, second) IoU of masks.

    Raises:
        RleError: A mask's run lengths are malformed; pycocotools must never see those.
    """
    if not first or not second:
        return np.zeros((len(first), len(second)))
    for annotation in (*first, *second):
        counts_to_runs(annotation.counts, annotation.size)
    encoded = [
        [{"size": list(a.size), "counts": a.counts.encode("ascii")} for a in side] for side in (first, second)
    ]
    ious: NDArray[np.float64] = coco_mask.iou(*encoded, [False] * len(second))
    return ious


def is_borderline(mask: Annotation, others: Sequence[Annotation], config: AmgConfig) -> bool:
    """Return whether rounding alone may have kept or dropped this mask.

    True where its predicted IoU or stability lies within `BORDERLINE` of a threshold, or where its box IoU
    with another mask of either dataset lies as near to the threshold of NMS, or where NMS chose between it
    and the overlapping mask of another prompt whose score is as near to its own. A different mask from the
    same prompt is no excuse: that is one candidate, computed differently.
    """
    if abs(mask.predicted_iou - config.pred_iou_thresh) <= BORDERLINE:
        return True
    if abs(mask.stability_score - config.stability_score_thresh) <= BORDERLINE:
        return True
    for other in others:
        if other is mask:
            continue
        overlap = box_iou_xywh(mask.bbox, other.bbox)
        if abs(overlap - config.box_nms_thresh) <= BORDERLINE:
            return True
        rival = overlap > config.box_nms_thresh and other.point_coords != mask.point_coords
        if rival and abs(mask.predicted_iou - other.predicted_iou) <= BORDERLINE:
            return True
    return False


def box_iou_xywh(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the IoU of two boxes XYWH; 0 where both are empty."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return shared / union if union > 0 else 0.0
