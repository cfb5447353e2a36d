"""Are two datasets of the same images the same? Masks are matched one to one, differences accounted for."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sam_engine.config import AmgConfig
from sam_engine.dataset.borderline import BORDERLINE, Match, explain_differences
from sam_engine.errors import ShardError
from sam_engine.ops.rle import mask_ious
from sam_engine.structures import Annotation, ImageRecord

MIN_IOU = 0.5
"""Masks below this are different things and never matched."""
SAME_IOU = 0.999
"""From here on two masks are the same but for rounding."""
MAX_NAMED = 100
"""Differences that a comparison names one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unexplained:
    """A mask without a counterpart that rounding does not explain."""

    image_id: int
    dataset: int
    """1 for the first, 2 for the second."""
    mask: int
    """Index into the annotations of the image."""
    iou: float
    """With the mask of the other dataset that it was matched with; 0 if with none."""


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
    """Masks on either side without a counterpart: a match at IoU >= 0.999 or what was asked for."""
    num_by_reason: Counter[str] = field(default_factory=Counter)
    """How many of them each `Reason` explains."""
    unexplained: tuple[Unexplained, ...] = ()
    """The others, or the first `MAX_NAMED` of them."""
    max_predicted_iou_error: float = 0.0
    """Largest difference between counterparts."""
    max_stability_error: float = 0.0

    def __add__(self, other: "Comparison") -> "Comparison":
        """Return the comparison of the images of both."""
        totals = {}
        for name in (entry.name for entry in fields(self)):
            pair = (getattr(self, name), getattr(other, name))
            totals[name] = max(pair) if name.startswith("max_") else pair[0] + pair[1]
        return Comparison(**{**totals, "unexplained": totals["unexplained"][:MAX_NAMED]})

    @property
    def num_unexplained(self) -> int:
        """Masks without a counterpart that rounding does not explain."""
        return self.num_different - self.num_by_reason.total()

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
    first: Iterable[ImageRecord],
    second: Iterable[ImageRecord],
    config: AmgConfig,
    *,
    same_iou: float = SAME_IOU,
    tolerance: float = BORDERLINE,
) -> Iterator[tuple[int, Comparison]]:
    """Yield the image id and comparison of each image.

    Args:
        first: Records in order of their image id.
        second: Records of the same images in the same order.
        config: Thresholds that decide what is borderline.
        same_iou: A match of this IoU or above makes two masks counterparts.
        tolerance: How far rounding may move a score.

    Raises:
        ShardError: The datasets are not of the same images.
    """
    for record, other in zip_records(first, second):
        yield record.image_id, compare_images(record, other, config, same_iou=same_iou, tolerance=tolerance)


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


def compare_images(
    first: ImageRecord,
    second: ImageRecord,
    config: AmgConfig,
    *,
    same_iou: float = SAME_IOU,
    tolerance: float = BORDERLINE,
) -> Comparison:
    """Match the masks of one image, count, and explain what has no counterpart; see `compare_datasets`."""
    a, b = first.annotations, second.annotations
    matches = match_masks(a, b)
    same = [match for match in matches if match.iou >= same_iou]
    reasons = explain_differences(a, b, matches, config, same_iou=same_iou, tolerance=tolerance)
    ious = {(0, match.first): match.iou for match in matches}
    ious |= {(1, match.second): match.iou for match in matches}
    unexplained = [
        Unexplained(image_id=first.image_id, dataset=side + 1, mask=i, iou=ious.get((side, i), 0.0))
        for (side, i), reason in reasons.items()
        if reason is None
    ]
    return Comparison(
        num_images=1,
        num_images_with_other_count=int(len(a) != len(b)),
        num_images_with_other_status=int(first.status != second.status),
        num_first=len(a),
        num_second=len(b),
        num_identical=sum(match.is_identical for match in matches),
        num_999=sum(match.iou >= 0.999 for match in matches),
        num_99=sum(match.iou >= 0.99 for match in matches),
        num_different=len(reasons),
        num_by_reason=Counter(reason.value for reason in reasons.values() if reason is not None),
        unexplained=tuple(unexplained[:MAX_NAMED]),
        max_predicted_iou_error=max(
            (abs(a[m.first].predicted_iou - b[m.second].predicted_iou) for m in same), default=0.0
        ),
        max_stability_error=max(
            (abs(a[m.first].stability_score - b[m.second].stability_score) for m in same), default=0.0
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
    ious = mask_ious([_rle(first[i]) for i in left], [_rle(second[j]) for j in right])
    while ious.size and ious.max() >= MIN_IOU:
        row, column = divmod(int(ious.argmax()), ious.shape[1])
        best = float(ious[row, column])
        matches.append(Match(first=left[row], second=right[column], iou=best, is_identical=False))
        ious[row, :], ious[:, column] = -1, -1
    return matches


def _rle(annotation: Annotation) -> dict[str, Any]:
    """Return a mask as COCO has it."""
    return {"size": annotation.size, "counts": annotation.counts}
