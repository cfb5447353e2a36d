"""Losses against plain formulas."""

import math

import pytest
import torch

from sam_engine.training.config import TrainConfig
from sam_engine.training.losses import hard_iou, loss_of_step, mask_losses, prompt_losses


def plain_loss(logits: list[float], targets: list[float]) -> float:
    """5 * BCE + 5 * dice of one mask, written out."""
    probabilities = [1 / (1 + math.exp(-x)) for x in logits]
    bce = -sum(
        t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in zip(probabilities, targets, strict=True)
    )
    overlap = sum(p * t for p, t in zip(probabilities, targets, strict=True))
    dice = 1 - (2 * overlap + 1) / (sum(probabilities) + sum(targets) + 1)
    return 5 * bce / len(logits) + 5 * dice


def test_mask_loss_is_bce_plus_dice():
    """Each mask's loss is that of the formula written out, also for soft targets."""
    logits = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    losses = mask_losses(logits, targets)

    for i in range(3):
        for j in range(2):
            expected = plain_loss(logits[i, j].flatten().tolist(), targets[i].flatten().tolist())
            assert losses[i, j].item() == pytest.approx(expected, rel=1e-9)


def test_lowest_of_three_is_trained():
    """The mask gradient reaches the best of three answers only."""
    target = torch.zeros(1, 8, 8)
    target[:, 2:6, 2:6] = 1
    good = (target * 8 - 4)[:, None]
    logits = torch.cat([-good, good, torch.zeros_like(good)], dim=1).requires_grad_()

    losses = prompt_losses(logits, torch.zeros(1, 3), target)
    losses.mask.sum().backward()

    assert losses.chosen.tolist() == [1]
    assert logits.grad is not None
    assert logits.grad.abs().sum(dim=(2, 3))[0].gt(0).tolist() == [False, True, False]


def test_predicted_iou_is_trained_towards_actual_iou():
    """The IoU error is the mean square distance to the IoU of the masks cut at 0."""
    target = torch.zeros(1, 4, 4)
    target[:, :2] = 1  # 8 cells
    logits = torch.full((1, 2, 4, 4), -1.0)
    logits[:, 0, :1] = 1.0  # 4 of them: IoU 1/2; the second mask is empty: IoU 0

    losses = prompt_losses(logits, torch.tensor([[0.9, 0.2]]), target)

    assert losses.actual_iou.tolist() == [[0.5, 0.0]]
    assert losses.iou_error.item() == pytest.approx((0.4**2 + 0.2**2) / 2)
    assert losses.total.item() == pytest.approx(losses.mask.item() + losses.iou_error.item())


def test_iou_of_two_empty_masks_is_zero():
    """Nothing predicted and nothing there counts 0, not NaN."""
    assert hard_iou(torch.full((1, 1, 4, 4), -1.0), torch.zeros(1, 4, 4)).item() == 0


def test_focal_loss_is_lins():
    """20 times focal loss with alpha 0.25 and gamma 2, and dice, for targets of 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 1, 4, 5, generator=generator, dtype=torch.float64)
    targets = (torch.rand(2, 4, 5, generator=generator) > 0.5).double()

    for mask, target, loss in zip(
        logits[:, 0], targets, mask_losses(logits, targets, "focal_dice"), strict=True
    ):
        values, truth = mask.flatten().tolist(), target.flatten().tolist()
        probabilities = [1 / (1 + math.exp(-x)) for x in values]
        focal = sum(
            -0.25 * (1 - p) ** 2 * math.log(p) if t else -0.75 * p**2 * math.log(1 - p)
            for p, t in zip(probabilities, truth, strict=True)
        )
        overlap = sum(p * t for p, t in zip(probabilities, truth, strict=True))
        dice = 1 - (2 * overlap + 1) / (sum(probabilities) + sum(truth) + 1)
        assert loss.item() == pytest.approx(20 * focal / len(values) + dice, rel=1e-9)


def test_bce_comes_before_focal_loss():
    """For as many steps as are asked for; bce_dice stays what it is."""
    config = TrainConfig(loss="focal_dice", loss_warmup_steps=3)

    assert [loss_of_step(step, config) for step in (0, 2, 3)] == ["bce_dice", "bce_dice", "focal_dice"]
    assert loss_of_step(5, TrainConfig()) == "bce_dice"
