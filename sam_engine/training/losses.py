"""What training minimises. P prompts, M masks for each, (h, w) low-resolution pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sam_engine.training.config import TrainConfig

BCE_WEIGHT = 5.0
DICE_WEIGHT = 5.0
FOCAL_TO_DICE = 20.0
FOCAL_ALPHA = 0.25
"""Weight of foreground; of background it is 1 - this."""
FOCAL_GAMMA = 2
"""Power of a pixel's error that its cross entropy is multiplied by."""


def loss_of_step(step: int, config: TrainConfig) -> str:
    """Return the kind of loss that a step minimises."""
    return config.loss if step >= config.loss_warmup_steps else "bce_dice"


@dataclass(frozen=True, kw_only=True)
class PromptLosses:
    """Losses of each prompt, and which of its masks they are of."""

    total: Tensor
    """(P,) what is minimised."""
    mask: Tensor
    """(P,) BCE or focal loss and dice of the chosen mask, weighted."""
    iou_error: Tensor
    """(P,) squared error of the predicted IoU, mean over the masks."""
    actual_iou: Tensor
    """(P, M), no gradient."""
    chosen: Tensor
    """(P,) index of the mask of the lowest loss."""


def mask_losses(logits: Tensor, targets: Tensor, kind: str = "bce_dice") -> Tensor:
    """Return the loss of every mask.

    Args:
        logits: (P, M, h, w).
        targets: (P, h, w) in [0, 1]; fractions are soft labels.
        kind: bce_dice: 5 * BCE + 5 * dice, which learns fast from the start. focal_dice: 20 * focal + dice,
            SAM's own, under which an untrained small model learns nothing for long.

    Returns:
        (P, M). Dice is ``1 - (2 * overlap + 1) / (sum of both + 1)`` over probabilities.

    Source of focal loss: Lin et al. 2017, "Focal Loss for Dense Object Detection"; its two constants are the
    paper's own, Kirillov et al. 2023 name none.
    """
    wanted = targets[:, None].expand_as(logits)
    bce = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    probabilities = logits.sigmoid()
    overlap = (probabilities * wanted).sum(dim=(2, 3))
    dice = 1 - (2 * overlap + 1) / (probabilities.sum(dim=(2, 3)) + wanted.sum(dim=(2, 3)) + 1)
    if kind == "focal_dice":
        error = probabilities + wanted - 2 * probabilities * wanted
        alpha = FOCAL_ALPHA * wanted + (1 - FOCAL_ALPHA) * (1 - wanted)
        return FOCAL_TO_DICE * (alpha * error**FOCAL_GAMMA * bce).mean(dim=(2, 3)) + dice
    return BCE_WEIGHT * bce.mean(dim=(2, 3)) + DICE_WEIGHT * dice


def hard_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the IoU of masks (P, M, h, w) cut at 0 with targets (P, h, w) cut at 0.5; 0 if both empty."""
    predicted, truth = logits > 0, (targets > 0.5)[:, None]
    overlap = (predicted & truth).sum(dim=(2, 3))
    union = (predicted | truth).sum(dim=(2, 3))
    return overlap / union.clamp(min=1)


def prompt_losses(
    logits: Tensor,
    predicted_iou: Tensor,
    targets: Tensor,
    kind: str = "bce_dice",
    iou_weight: float = 1.0,
) -> PromptLosses:
    """Return the losses of prompts with M alternatives, of which only the best mask is trained.

    Args:
        logits: (P, M, h, w).
        predicted_iou: (P, M). All are trained towards the actual IoU, so that ranking them means something.
        targets: (P, h, w) in [0, 1].
        kind: As in `mask_losses`.
        iou_weight: Of ``iou_error`` in ``total``.

    Source: Kirillov et al. 2023, "Segment Anything", appendix A.
    """
    losses = mask_losses(logits, targets, kind)
    best, chosen = losses.min(dim=1)
    with torch.no_grad():
        actual = hard_iou(logits, targets)
    iou_error = (predicted_iou - actual).square().mean(dim=1)
    return PromptLosses(
        total=best + iou_weight * iou_error,
        mask=best,
        iou_error=iou_error,
        actual_iou=actual,
        chosen=chosen,
    )
