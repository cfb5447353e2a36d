"""What training minimises. P prompts, M masks for each, (h, w) low-resolution pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

BCE_WEIGHT = 5.0
DICE_WEIGHT = 5.0
IOU_WEIGHT = 1.0


@dataclass(frozen=True, kw_only=True)
class PromptLosses:
    """Losses of each prompt, and which of its masks they are of."""

    total: Tensor
    """(P,) what is minimised."""
    mask: Tensor
    """(P,) BCE and dice of the chosen mask, weighted."""
    iou_error: Tensor
    """(P,) squared error of the predicted IoU, mean over the masks."""
    actual_iou: Tensor
    """(P, M), no gradient."""
    chosen: Tensor
    """(P,) index of the mask of the lowest loss."""


def mask_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 5 * BCE + 5 * dice of every mask.

    Args:
        logits: (P, M, h, w).
        targets: (P, h, w) in [0, 1]; fractions are soft labels.

    Returns:
        (P, M). Dice is ``1 - (2 * overlap + 1) / (sum of both + 1)`` over probabilities.
    """
    wanted = targets[:, None].expand_as(logits)
    bce = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=(2, 3))
    probabilities = logits.sigmoid()
    overlap = (probabilities * wanted).sum(dim=(2, 3))
    dice = 1 - (2 * overlap + 1) / (probabilities.sum(dim=(2, 3)) + wanted.sum(dim=(2, 3)) + 1)
    return BCE_WEIGHT * bce + DICE_WEIGHT * dice


def hard_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the IoU of masks (P, M, h, w) cut at 0 with targets (P, h, w) cut at 0.5; 0 if both empty."""
    predicted, truth = logits > 0, (targets > 0.5)[:, None]
    overlap = (predicted & truth).sum(dim=(2, 3))
    union = (predicted | truth).sum(dim=(2, 3))
    return overlap / union.clamp(min=1)


def prompt_losses(logits: Tensor, predicted_iou: Tensor, targets: Tensor) -> PromptLosses:
    """Return the losses of prompts with M alternatives, of which only the best mask is trained.

    Args:
        logits: (P, M, h, w).
        predicted_iou: (P, M). All are trained towards the actual IoU, so that ranking them means something.
        targets: (P, h, w) in [0, 1].

    Source: Kirillov et al. 2023, "Segment Anything", appendix A; with BCE in place of focal loss.
    """
    losses = mask_losses(logits, targets)
    best, chosen = losses.min(dim=1)
    with torch.no_grad():
        actual = hard_iou(logits, targets)
    iou_error = (predicted_iou - actual).square().mean(dim=1)
    return PromptLosses(
        total=best + IOU_WEIGHT * iou_error,
        mask=best,
        iou_error=iou_error,
        actual_iou=actual,
        chosen=chosen,
    )
