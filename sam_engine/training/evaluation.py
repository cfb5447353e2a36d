"""Scores of a model on ground truth: one click or one box for each mask, beside an image-blind guess."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.modeling.sam import Sam
from sam_engine.ops.resize import ResizeLongestSide
from sam_engine.training.metrics import (
    as_tensor,
    best_discs,
    centre_click,
    correlation,
    disc_ious,
    mask_iou,
    tight_box,
)
from sam_engine.training.packing import TarSample

MASKS_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Mean IoU over all masks of a data set, each mask prompted by itself."""

    images: int
    masks: int
    click_ranked: float
    """One click at the centre; the answer of the highest predicted IoU."""
    click_oracle: float
    """The best of the three answers to that click."""
    box: float
    """The tight box; one answer."""
    predicted_iou: float
    """Mean of what the model said of its ranked answers."""
    iou_correlation: float
    """Between predicted and actual IoU of the ranked answers."""
    disc_ranked: float
    """Image-blind: a disc round the click, of the best radius for this data."""
    disc_oracle: float
    """Image-blind: the best of three discs."""

    def as_dict(self) -> dict[str, float]:
        """Return the scores by name, rounded to four digits."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


@torch.no_grad()
def evaluate(model: Sam, samples: Iterable[TarSample]) -> Scores:
    """Prompt the model for every mask and score the answers at the original resolution."""
    images = 0
    rows: list[NDArray[np.float64]] = []  # (masks, 4): ranked, oracle, box, predicted IoU
    discs: list[NDArray[np.float64]] = []
    for sample in samples:
        masks = [mask for mask in sample.masks if mask.any()]
        if not masks:
            continue
        images += 1
        clicks = [centre_click(mask) for mask in masks]
        rows.append(_score_image(model, sample.image, masks, clicks))
        discs += [disc_ious(mask, click) for mask, click in zip(masks, clicks, strict=True)]
    if not rows:
        raise ValueError("there is no mask to score")
    ranked, oracle, box, predicted = np.concatenate(rows).T
    disc_ranked, disc_oracle = best_discs(np.stack(discs))
    return Scores(
        images=images,
        masks=len(ranked),
        click_ranked=float(ranked.mean()),
        click_oracle=float(oracle.mean()),
        box=float(box.mean()),
        predicted_iou=float(predicted.mean()),
        iou_correlation=correlation(predicted, ranked),
        disc_ranked=disc_ranked,
        disc_oracle=disc_oracle,
    )


def _score_image(
    model: Sam,
    image: NDArray[np.uint8],
    masks: list[NDArray[np.bool_]],
    clicks: list[tuple[float, float]],
) -> NDArray[np.float64]:
    """Return (masks, 4): IoU of the ranked, the best and the box's answer, and predicted IoU."""
    transform, size = ResizeLongestSide(model.image_size), image.shape[:2]
    [embedding] = model.encode([image])
    points = torch.from_numpy(transform.apply_coords(np.array(clicks), size)).float().to(model.device)
    boxes = torch.from_numpy(transform.apply_boxes(np.array([tight_box(m) for m in masks]), size)).float()
    scores = []
    for start in range(0, len(masks), MASKS_AT_ONCE):
        part = slice(start, start + MASKS_AT_ONCE)
        truth = as_tensor(masks[part])[:, None].to(model.device)  # (N, 1, H, W)
        coords = points[part, None]  # (N, 1, 2)
        logits, predicted = model.decode(
            embedding, point_coords=coords, point_labels=torch.ones(coords.shape[:2], device=model.device)
        )
        actual = mask_iou(_binary(model, logits, embedding.input_size, size), truth)  # (N, 3)
        best = predicted.argmax(dim=1, keepdim=True)
        logits, _ = model.decode(embedding, boxes=boxes[part].to(model.device), multimask_output=False)
        by_box = mask_iou(_binary(model, logits, embedding.input_size, size), truth)
        columns = (
            actual.gather(1, best),
            actual.amax(dim=1, keepdim=True),
            by_box,
            predicted.gather(1, best),
        )
        scores.append(torch.cat(columns, dim=1))
    return torch.cat(scores).double().cpu().numpy()


def _binary(model: Sam, logits: Tensor, input_size: tuple[int, int], size: tuple[int, ...]) -> Tensor:
    """Return masks at the original resolution."""
    return model.postprocess_masks(logits, input_size, size) > model.mask_threshold
