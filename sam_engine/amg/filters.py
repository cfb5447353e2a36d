"""What a mask must be to stay: finite, of a good predicted IoU, stable, not too large, whole, no duplicate.

Everything here is on the host. Legend: N masks.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sam_engine.amg.mask_batch import Crop, MaskBatch
from sam_engine.amg.measure import MaskMeasures
from sam_engine.amg.packed_logits import KeptLogits
from sam_engine.config import AmgConfig, is_on
from sam_engine.errors import ImageError
from sam_engine.ops.boxes import box_area, box_nms, is_box_near_crop_edge, uncrop_boxes_xyxy
from sam_engine.structures import ImageStatus

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What became of the masks of a crop."""

    num_masks: int = 0
    num_non_finite: int = 0
    num_found: int = 0
    """Finite, and of a predicted IoU that is good enough."""
    best_predicted_iou: float = -math.inf
    best_stability_score: float = -math.inf
    """Of those found; where all are below the threshold, a bound that shows it may be all that is known."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            num_masks=self.num_masks + other.num_masks,
            num_non_finite=self.num_non_finite + other.num_non_finite,
            num_found=self.num_found + other.num_found,
            best_predicted_iou=max(self.best_predicted_iou, other.best_predicted_iou),
            best_stability_score=max(self.best_stability_score, other.best_stability_score),
        )

    def measured(self, measures: MaskMeasures) -> "Tally":
        """Return it with what was measured of the masks that were found."""
        return replace(self, best_stability_score=min(1.0, _largest(measures.stability_score)))


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingFound:
    """Images of which the filters left no mask."""

    num_images: int = 0
    tally: Tally = Tally()
    """Of all of them."""

    def __add__(self, other: "NothingFound") -> "NothingFound":
        return NothingFound(num_images=self.num_images + other.num_images, tally=self.tally + other.tally)

    def reason(self, config: AmgConfig) -> str:
        """Say which threshold was too high for the best of their masks, and how good that was."""
        best_iou, best_stability = self.tally.best_predicted_iou, self.tally.best_stability_score
        if is_on(config.pred_iou_thresh) and best_iou <= config.pred_iou_thresh:
            return f"the best predicted IoU is {_short(best_iou)}, pred_iou_thresh {config.pred_iou_thresh:g}"
        if is_on(config.stability_score_thresh) and best_stability < config.stability_score_thresh:
            return (
                f"the best stability score is at most {_short(best_stability)}, "
                f"stability_score_thresh {config.stability_score_thresh:g}"
            )
        return "the masks above the thresholds end at a crop's border, are too large or too small"


def find_good(predicted_iou: Tensor, are_finite: Tensor, config: AmgConfig) -> tuple[Tensor, Tally]:
    """Return which of N masks are finite and of a predicted IoU that is good enough, and count the others.

    Args:
        predicted_iou: (N,).
        are_finite: (N,) bool: their logits.
        config: With ``pred_iou_thresh``.
    """
    keep = predicted_iou.isfinite()
    best = _largest(predicted_iou[keep])
    num_non_finite = int((~keep).sum())
    if is_on(config.pred_iou_thresh):
        keep &= predicted_iou > config.pred_iou_thresh
    num_good = int(keep.sum())
    keep &= are_finite
    num_found = int(keep.sum())
    tally = Tally(
        num_masks=len(keep),
        num_non_finite=num_non_finite + num_good - num_found,
        num_found=num_found,
        best_predicted_iou=best,
    )
    return keep, tally


def filter_measured(
    crop: Crop,
    config: AmgConfig,
    *,
    measures: MaskMeasures,
    predicted_iou: Tensor,
    prompt_index: Tensor,
    keep_logits: Callable[[Tensor], KeptLogits],
) -> MaskBatch:
    """Return those of N masks of a crop that are stable, not too large, and not cut off by the crop.

    ``keep_logits`` is asked once, which logits to keep: (N,) bool. All else is on the host.
    """
    height, width = crop.image_size
    keep = ~is_box_near_crop_edge(measures.boxes_xyxy, crop.box, (0, 0, width, height))
    # Comparisons of float32 tensors with Python floats happen in float32, as in the original.
    if is_on(config.stability_score_thresh):
        keep &= measures.stability_score >= config.stability_score_thresh
    if config.max_mask_area_fraction < 1:
        keep &= measures.area < config.max_mask_area_fraction * height * width
    return MaskBatch(
        logits=keep_logits(keep),
        predicted_iou=predicted_iou[keep],
        stability_score=measures.stability_score[keep],
        boxes_xyxy=uncrop_boxes_xyxy(measures.boxes_xyxy, crop.box)[keep],
        prompt_index=prompt_index[keep],
        crop_index=torch.full_like(prompt_index, crop.index)[keep],
    )


def report_non_finite(tally: Tally, crop: Crop) -> None:
    """Raise `ImageError` if a crop gave no masks but some that are not finite; warn if it gave others too."""
    if tally.num_non_finite == 0:
        return
    message = (
        f"{tally.num_non_finite} of {tally.num_masks} masks of crop {list(crop.box)} "
        "are not finite in logits or score"
    )
    if tally.num_found == 0:
        raise ImageError(ImageStatus.MODEL_NONFINITE, message)
    log.warning("%s; they were dropped", message)


def nms_within_crop(candidates: Sequence[MaskBatch], iou_thresh: float) -> MaskBatch:
    """Return the masks of a crop that its NMS leaves, by descending predicted IoU."""
    batch = MaskBatch.cat(candidates)
    return batch[box_nms(batch.boxes_xyxy, batch.predicted_iou, iou_thresh)]


def nms_between_crops(batches: Sequence[MaskBatch], crops: Sequence[Crop], iou_thresh: float) -> MaskBatch:
    """Return the masks of an image that the NMS between its crops leaves, from the smallest crops first."""
    batch = MaskBatch.cat(batches)
    if len(crops) == 1:
        return batch
    crop_boxes = torch.tensor([crop.box for crop in crops])
    scores = 1 / box_area(crop_boxes[batch.crop_index])
    return batch[box_nms(batch.boxes_xyxy, scores, iou_thresh)]


def _largest(values: Tensor) -> float:
    """Return the maximum of (N,) values; -inf of none."""
    return float(values.max()) if len(values) else -math.inf


def _short(score: float) -> str:
    """Return a score in three places, rounded down: below a threshold it must not look equal to it."""
    return f"{math.floor(score * 1000) / 1000:.3g}" if math.isfinite(score) else "none"
