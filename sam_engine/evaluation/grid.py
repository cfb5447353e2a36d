"""What the mask generator finds on whole images, and what its thresholds make of it.

A grid of prompts is decoded once per image, without thresholds and duplicates included. All else is computed
from these candidates: recall, calibration, and what any pair of thresholds would keep.

N candidates of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sam_engine.amg.found_mask import FoundMask
from sam_engine.amg.mask_finder import MaskFinder
from sam_engine.config import AmgConfig, is_on
from sam_engine.evaluation.calibration import Calibration, calibrate
from sam_engine.evaluation.recall import AREA_RANGES, MAX_MASKS, RecallCounter
from sam_engine.evaluation.truth import TruthImage
from sam_engine.modeling.segmenter import ImageEmbedding, Segmenter
from sam_engine.ops.boxes import box_nms
from sam_engine.ops.rle import mask_ious, runs_to_counts

PROPOSAL_NMS_THRESH = 0.9
"""Box IoU of duplicates among unfiltered proposals. Source: Kirillov et al. 2023, appendix D.3."""
GOOD_IOU = 0.5
"""A mask of at least this IoU with some annotated mask counts as good."""
PRED_IOU_STEPS = tuple(round(float(t), 2) for t in np.arange(0.0, 1.0, 0.05))
STABILITY_STEPS = tuple(round(float(t), 2) for t in np.arange(0.5, 1.0, 0.05))

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """All masks that a grid of prompts gives on an image."""

    predicted_iou: NDArray[np.float32]
    """(N,)."""
    stability_score: NDArray[np.float32]
    """(N,)."""
    boxes_xyxy: NDArray[np.int64]
    """(N, 4) inclusive pixel indices."""
    crop_boxes_xywh: NDArray[np.int64]
    """(N, 4) the crops that they were found in."""
    ious: Floats
    """(N, G) with each mask of the truth."""
    truth_areas: Floats
    """(G,)."""
    final: "Candidates | None" = None
    """What the generator gives, if it cleans masks up and so changes them. None: those of these that its
    thresholds and non-maximum suppression leave."""

    @property
    def best_iou(self) -> Floats:
        """(N,) with the mask of the truth that each overlaps most."""
        return np.asarray(self.ious.max(axis=1, initial=0.0))


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """What a pair of thresholds keeps of all candidates, and what is left after duplicates are dropped."""

    pred_iou_thresh: float
    stability_score_thresh: float
    kept_share: float
    """Of the candidates."""
    kept_iou: float
    """Their mean IoU with the best annotated mask. 0 where none is kept."""
    kept_good_share: float
    """Those of an IoU of `GOOD_IOU` and more."""
    masks_per_image: float
    """After non-maximum suppression: what a dataset would get."""
    mask_iou: float
    """Mean IoU of those with the best annotated mask."""
    good_share: float
    """Those of an IoU of `GOOD_IOU` and more."""


@dataclass(frozen=True, kw_only=True)
class KeptMasks:
    """The masks that the generator's own settings leave: what a dataset would get.

    This is precision where the truth is exhaustive. Elsewhere it is a lower bound: a mask of what nobody
    annotated counts as wrong.
    """

    masks_per_image: float
    mean_iou: float
    """With the best annotated mask each. 0 where none is left."""
    good_share: float
    """Those of an IoU above `GOOD_IOU`."""
    calibration: Calibration | None
    """Their predicted IoU beside the same; None where none is left."""


@dataclass(frozen=True, kw_only=True)
class Recalls:
    """What the masks that are kept find of the truth."""

    average: dict[str, dict[str, float | None]]
    """AR by budget (``100``, ``1000``) and size of the truth; None where there is no such truth."""
    curve: dict[str, list[float]]
    """Recall of masks of all sizes at each IoU threshold, by budget."""
    masks_per_image: float


@dataclass(frozen=True, kw_only=True)
class GridScores:
    """The mask generator over a data set."""

    images: int
    truth_masks: int
    candidates: int
    proposals: Recalls
    """Of all candidates but duplicates at `PROPOSAL_NMS_THRESH`, ranked by the mean of predicted IoU and
    stability. Source of the protocol: Kirillov et al. 2023, appendix D.3."""
    generator: Recalls
    """Of the masks that the generator's own settings leave, ranked by predicted IoU."""
    kept: KeptMasks
    """The same masks, judged one by one."""
    before: Filtered
    """Without thresholds."""
    after: Filtered
    """At the generator's thresholds."""
    sweep: tuple[Filtered, ...]
    """At other pairs of thresholds."""
    calibration: Calibration
    """Predicted IoU of all candidates beside their IoU with the best annotated mask, which is a lower bound
    where not everything is annotated."""
    stability: Calibration
    """Stability of all candidates beside the same."""


class CachedEncoder:
    """A `Segmenter` that answers the next `encode` of an image it is given an embedding of with that."""

    def __init__(self, model: Segmenter, pixels: NDArray[np.uint8], embedding: ImageEmbedding) -> None:
        self.model, self.pixels, self.embedding = model, pixels, embedding
        self.mask_threshold, self.image_size, self.device = (
            model.mask_threshold,
            model.image_size,
            model.device,
        )

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """Encode what is not the known image."""
        if len(images) == 1 and images[0].shape == self.pixels.shape:
            return [self.embedding]
        return self.model.encode(images)

    def decode(self, embedding: ImageEmbedding, **prompts: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """As the model does."""
        return self.model.decode(embedding, **prompts)


def find_candidates(
    model: Segmenter, amg: AmgConfig, image: TruthImage, embedding: ImageEmbedding
) -> Candidates:
    """Decode the generator's grid on an image and compare every mask with the truth.

    Args:
        model: In eval mode.
        amg: Grid and crops are used; thresholds are not, but for ``final`` if small regions are cleaned up.
        image: With its truth.
        embedding: Of the image.
    """
    everything = replace(
        amg,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        box_nms_thresh=1.0,
        crop_nms_thresh=1.0,
        min_mask_region_area=0,
        drop_small_masks=False,
    )
    encoder = CachedEncoder(model, image.pixels, embedding)
    found = _compared(MaskFinder(encoder, everything).find(image.pixels), image)
    if amg.min_mask_region_area == 0:
        return found
    return replace(found, final=_compared(MaskFinder(encoder, amg).find(image.pixels), image))


def _compared(masks: Sequence[FoundMask], image: TruthImage) -> Candidates:
    """Return masks with their IoU with the truth."""
    size = image.pixels.shape[:2]
    return Candidates(
        predicted_iou=np.array([mask.predicted_iou for mask in masks], np.float32),
        stability_score=np.array([mask.stability_score for mask in masks], np.float32),
        boxes_xyxy=np.array([mask.box_xyxy for mask in masks], np.int64).reshape(-1, 4),
        crop_boxes_xywh=np.array([mask.crop_box_xywh for mask in masks], np.int64).reshape(-1, 4),
        ious=mask_ious([{"size": size, "counts": runs_to_counts(mask.runs)} for mask in masks], image.rles),
        truth_areas=image.areas,
    )


def passing(
    candidates: Candidates, pred_iou_thresh: float, stability_score_thresh: float
) -> NDArray[np.bool_]:
    """Say of each candidate (N,) whether it passes both thresholds, as the generator compares."""
    keep = np.ones(len(candidates.predicted_iou), bool)
    if is_on(pred_iou_thresh):
        keep &= candidates.predicted_iou > np.float32(pred_iou_thresh)
    if is_on(stability_score_thresh):
        keep &= candidates.stability_score >= np.float32(stability_score_thresh)
    return keep


def without_duplicates(
    candidates: Candidates,
    keep: NDArray[np.bool_],
    scores: NDArray[np.float32],
    box_nms_thresh: float,
    crop_nms_thresh: float,
) -> NDArray[np.int64]:
    """Return the indices of the kept masks that non-maximum suppression leaves, best score first.

    As in the generator: within each crop by score, then, if there are several crops, between them in favour
    of the smaller crop.
    """
    boxes = torch.from_numpy(candidates.boxes_xyxy)
    crops, crop_of = np.unique(candidates.crop_boxes_xywh, axis=0, return_inverse=True)
    left = []
    for crop in range(len(crops)):
        rows = np.flatnonzero(keep & (crop_of.ravel() == crop))
        chosen = box_nms(boxes[rows], torch.from_numpy(scores[rows]), box_nms_thresh)
        left.append(rows[chosen.numpy()])
    indices = np.concatenate(left) if left else np.zeros(0, np.int64)
    if len(crops) > 1:
        crop_boxes = torch.from_numpy(candidates.crop_boxes_xywh[indices])
        area = crop_boxes[:, 2] * crop_boxes[:, 3]
        indices = indices[box_nms(boxes[indices], 1 / area, crop_nms_thresh).numpy()]
    return indices[np.argsort(-scores[indices], kind="stable")]


def summarise(images: Sequence[Candidates], amg: AmgConfig, *, bins: int = 10) -> GridScores:
    """Return what the candidates of all images come to; there must be an image."""
    predicted = np.concatenate([image.predicted_iou for image in images]).astype(np.float64)
    stability = np.concatenate([image.stability_score for image in images]).astype(np.float64)
    best = np.concatenate([image.best_iou for image in images])
    asked = (amg.thresholds.pred_iou_thresh, amg.thresholds.stability_score_thresh)
    finals = [_final(image, amg) for image in images]
    pairs = [(p, s) for p in PRED_IOU_STEPS for s in (0.0, *STABILITY_STEPS)]
    return GridScores(
        images=len(images),
        truth_masks=sum(len(image.truth_areas) for image in images),
        candidates=len(best),
        proposals=_recalls(images, _proposals(images)),
        generator=_recalls([masks for masks, _ in finals], [rows for _, rows in finals]),
        kept=_kept(finals, bins),
        before=filtered(images, amg, 0.0, 0.0),
        after=filtered(images, amg, *asked),
        sweep=tuple(filtered(images, amg, p, s) for p, s in pairs),
        calibration=calibrate(predicted, best, bins),
        stability=calibrate(stability, best, bins),
    )


def filtered(
    images: Sequence[Candidates], amg: AmgConfig, pred_iou_thresh: float, stability_score_thresh: float
) -> Filtered:
    """Return what a pair of thresholds keeps, before and after duplicates are dropped."""
    passed = [passing(image, pred_iou_thresh, stability_score_thresh) for image in images]
    kept = np.concatenate([image.best_iou[keep] for image, keep in zip(images, passed, strict=True)])
    final = _generated(images, amg, pred_iou_thresh, stability_score_thresh)
    masks = np.concatenate([image.best_iou[rows] for image, rows in zip(images, final, strict=True)])
    return Filtered(
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
        kept_share=len(kept) / max(1, sum(len(keep) for keep in passed)),
        kept_iou=_mean(kept),
        kept_good_share=_mean(kept >= GOOD_IOU),
        masks_per_image=len(masks) / len(images),
        mask_iou=_mean(masks),
        good_share=_mean(masks >= GOOD_IOU),
    )


def _final(image: Candidates, amg: AmgConfig) -> tuple[Candidates, NDArray[np.int64]]:
    """Return what the generator gives for an image: candidates, and which of them, best score first."""
    if image.final is not None:
        return image.final, np.argsort(-image.final.predicted_iou, kind="stable")
    asked = amg.thresholds
    [rows] = _generated([image], amg, asked.pred_iou_thresh, asked.stability_score_thresh)
    return image, rows


def _kept(finals: Sequence[tuple[Candidates, NDArray[np.int64]]], bins: int) -> KeptMasks:
    """Judge the masks that are left of all images."""
    ious = np.concatenate([masks.best_iou[rows] for masks, rows in finals])
    predicted = np.concatenate([masks.predicted_iou[rows] for masks, rows in finals]).astype(np.float64)
    return KeptMasks(
        masks_per_image=len(ious) / len(finals),
        mean_iou=_mean(ious),
        good_share=_mean(ious > GOOD_IOU),
        calibration=calibrate(predicted, ious, bins) if len(ious) else None,
    )


def _generated(
    images: Sequence[Candidates], amg: AmgConfig, pred_iou_thresh: float, stability_score_thresh: float
) -> list[NDArray[np.int64]]:
    """Return the rows of each image that the generator would give at these thresholds."""
    return [
        without_duplicates(
            image,
            passing(image, pred_iou_thresh, stability_score_thresh),
            image.predicted_iou,
            amg.box_nms_thresh,
            amg.crop_nms_thresh,
        )
        for image in images
    ]


def _proposals(images: Sequence[Candidates]) -> list[NDArray[np.int64]]:
    """Return the rows of each image that are no near-duplicates, best mean of both scores first."""
    rows = []
    for image in images:
        scores = np.asarray((image.predicted_iou + image.stability_score) / 2, np.float32)
        everything = np.ones(len(scores), bool)
        rows.append(without_duplicates(image, everything, scores, PROPOSAL_NMS_THRESH, PROPOSAL_NMS_THRESH))
    return rows


def _recalls(images: Sequence[Candidates], ranked: Sequence[NDArray[np.int64]]) -> Recalls:
    """Return recall of the rows (best first) of each image."""
    counter = RecallCounter()
    for image, rows in zip(images, ranked, strict=True):
        counter.add(image.ious[rows], image.truth_areas)
    curves = {str(budget): counter.recall_curve("all", budget) for budget in MAX_MASKS}
    return Recalls(
        average={
            str(budget): {area: counter.average_recall(area, budget) for area in AREA_RANGES}
            for budget in MAX_MASKS
        },
        curve={budget: [] if curve is None else curve.tolist() for budget, curve in curves.items()},
        masks_per_image=sum(map(len, ranked)) / len(ranked),
    )


def _mean(values: NDArray[Any]) -> float:
    """Return the mean; 0 of nothing."""
    return float(values.mean()) if len(values) else 0.0
