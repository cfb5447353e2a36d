"""Why is a mask in one dataset and not in the other? Accounts for what rounding alone may do.

The mask generator compares scores with thresholds, boxes with each other, and logits with 0. A number that
lies on the edge may fall on either side with another order of the same sums; and a mask that falls out lets
those in that it would have suppressed. Anything else is a difference of the engines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sam_engine.config import AmgConfig, is_on
from sam_engine.structures import Annotation

BORDERLINE = 1e-3
"""A score this near to its threshold may fall on either side."""
MAX_EDGE_PIXELS = 2
"""Pixels of one mask whose logits may be as near to the mask threshold as rounding reaches."""

Place = tuple[int, int]
"""0 for the first dataset or 1 for the second, and an index into the annotations of an image there."""


class Reason(StrEnum):
    """What explains that a mask has no counterpart."""

    PREDICTED_IOU = "predicted IoU at its threshold"
    STABILITY = "stability at its threshold"
    BOX_IOU = "box IoU at the threshold of NMS"
    ORDER = "NMS chose between two of equal score"
    PIXELS = "one or two pixels at the mask threshold"
    NEIGHBOUR = "suppressed there by one of these"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A mask of the first dataset and its counterpart in the second, as indices into the annotations."""

    first: int
    second: int
    iou: float
    is_identical: bool
    """The run lengths are the same bytes."""


def explain_differences(
    first: Sequence[Annotation],
    second: Sequence[Annotation],
    matches: Sequence[Match],
    config: AmgConfig,
    *,
    same_iou: float,
    tolerance: float = BORDERLINE,
) -> dict[Place, Reason | None]:
    """Return why each mask without a counterpart has none; None where nothing explains it.

    Args:
        first: Masks of an image in the first dataset.
        second: And in the second.
        matches: Of them, one to one.
        config: Thresholds of the mask generator.
        same_iou: A match of this IoU or above makes two masks counterparts.
        tolerance: How far rounding may move a score.
    """
    image = _Image(masks=(first, second), matches=matches, config=config, tolerance=tolerance)
    paired = {(0, match.first) for match in matches if match.iou >= same_iou}
    paired |= {(1, match.second) for match in matches if match.iou >= same_iou}
    places = [(side, i) for side in (0, 1) for i in range(len(image.masks[side]))]
    alone = [place for place in places if place not in paired]
    reasons = {place: image.own_reason(place, alone) for place in alone}
    while neighbours := [
        place for place in alone if reasons[place] is None and image.is_suppressed(place, reasons)
    ]:
        reasons.update(dict.fromkeys(neighbours, Reason.NEIGHBOUR))
    return reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """The masks of one image in both datasets."""

    masks: tuple[Sequence[Annotation], Sequence[Annotation]]
    matches: Sequence[Match]
    config: AmgConfig
    tolerance: float

    def own_reason(self, place: Place, alone: Sequence[Place]) -> Reason | None:
        """Return what explains a mask by itself, or by its overlap with another."""
        side, index = place
        mask = self.masks[side][index]
        if self._is_at(mask.predicted_iou, self.config.thresholds.pred_iou_thresh):
            return Reason.PREDICTED_IOU
        if self._is_at(mask.stability_score, self.config.thresholds.stability_score_thresh):
            return Reason.STABILITY
        if any(
            self._differs_by_edge_pixels(match)
            for match in self.matches
            if index == (match.first, match.second)[side]
        ):
            return Reason.PIXELS
        rivals = [self.masks[s][i] for s, i in alone if s != side]
        if any(self._is_equal_rival(mask, rival) for rival in rivals):
            return Reason.ORDER
        others = [(self.masks[s][i],) for s in (0, 1) for i in range(len(self.masks[s])) if (s, i) != place]
        versions = [(self.masks[0][match.first], self.masks[1][match.second]) for match in self.matches]
        versions = [pair for pair in versions if mask not in pair]
        if any(self._is_box_iou_at_threshold(mask, pair) for pair in [*others, *versions]):
            return Reason.BOX_IOU
        return None

    def is_suppressed(self, place: Place, reasons: Mapping[Place, Reason | None]) -> bool:
        """Return whether an explained mask, which only the other side has, keeps this one out there."""
        mask = self.masks[place[0]][place[1]]
        return any(
            reason is not None and side != place[0] and self._suppresses(self.masks[side][index], mask)
            for (side, index), reason in reasons.items()
        )

    def _is_at(self, score: float, threshold: float) -> bool:
        """Return whether a score is as good as at a threshold that is in use."""
        return is_on(threshold) and abs(score - threshold) <= self.tolerance

    def _differs_by_edge_pixels(self, match: Match) -> bool:
        """Return whether a match is one candidate, of which a few pixels fell on the other side."""
        mask, other = self.masks[0][match.first], self.masks[1][match.second]
        if mask.point_coords != other.point_coords or not self._has_equal_score(mask, other):
            return False
        # iou = shared / (sum - shared), and the pixels that differ are sum - 2 * shared.
        num_pixels = (mask.area + other.area) * (1 - match.iou) / (1 + match.iou)
        return round(num_pixels) <= MAX_EDGE_PIXELS

    def _has_equal_score(self, mask: Annotation, other: Annotation) -> bool:
        return abs(mask.predicted_iou - other.predicted_iou) <= self.tolerance

    def _is_equal_rival(self, mask: Annotation, rival: Annotation) -> bool:
        """Return whether NMS may have taken either of two prompts' masks.

        A different mask from the same prompt is no excuse: that may be one candidate, computed differently.
        """
        overlap = box_iou_xywh(mask.bbox, rival.bbox)
        is_rival = overlap > self._nms_thresh(mask, rival) and rival.point_coords != mask.point_coords
        return is_rival and self._has_equal_score(mask, rival)

    def _is_box_iou_at_threshold(self, mask: Annotation, versions: Sequence[Annotation]) -> bool:
        """Return whether NMS may have kept or dropped a mask beside another, in one of its versions."""
        threshold = self._nms_thresh(mask, versions[0])
        if not any(self._outranks(version, mask) for version in versions):
            return False
        overlaps = [box_iou_xywh(mask.bbox, version.bbox) for version in versions]
        return min(overlaps) - self.tolerance <= threshold <= max(overlaps) + self.tolerance

    def _suppresses(self, other: Annotation, mask: Annotation) -> bool:
        """Return whether NMS drops a mask if it has taken the other."""
        overlap = box_iou_xywh(mask.bbox, other.bbox)
        return overlap > self._nms_thresh(mask, other) and self._outranks(other, mask)

    def _outranks(self, other: Annotation, mask: Annotation) -> bool:
        """Return whether NMS takes the other mask first: the better, or between crops that of the smaller."""
        if other.crop_box == mask.crop_box:
            return other.predicted_iou >= mask.predicted_iou - self.tolerance
        return other.crop_box[2] * other.crop_box[3] <= mask.crop_box[2] * mask.crop_box[3]

    def _nms_thresh(self, mask: Annotation, other: Annotation) -> float:
        """Return the box IoU above which only one of two masks stays."""
        same_crop = mask.crop_box == other.crop_box
        return self.config.box_nms_thresh if same_crop else self.config.crop_nms_thresh


def box_iou_xywh(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the IoU of two boxes XYWH; 0 where both are empty."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return shared / union if union > 0 else 0.0
