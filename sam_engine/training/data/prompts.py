"""Simulated annotators: first clicks, noisy boxes, and clicks into the error of the previous round."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.compute.device import upload

BOX_NOISE = 0.1
"""Of a box side; Kirillov et al. 2023, appendix A."""
MAX_BOX_NOISE = 20.0
"""Pixels."""
CENTRAL_CLICKS = 0.4
"""Clicks near the centre of mass, where people click; the others are uniform over the mask."""


def draw_click(
    mask: NDArray[np.bool_], rng: np.random.Generator, scale: tuple[float, float]
) -> NDArray[np.float32]:
    """Return a point (x, y) inside a mask (H, W), brought to another size by ``scale`` (x, y)."""
    rows, columns = np.nonzero(mask)
    if rng.random() < CENTRAL_CLICKS:
        spread = 0.1 * np.array([np.ptp(rows) + 1, np.ptp(columns) + 1])
        wanted = np.array([rows.mean(), columns.mean()]) + rng.uniform(-1, 1, 2) * spread
        pick = int(((rows - wanted[0]) ** 2 + (columns - wanted[1]) ** 2).argmin())
    else:
        pick = int(rng.integers(len(rows)))
    jitter = rng.uniform(0, 1, 2)  # within the pixel
    x = (columns[pick] + jitter[0]) * scale[0] - 0.5
    y = (rows[pick] + jitter[1]) * scale[1] - 0.5
    return np.array([x, y], np.float32)


def noisy_box(
    mask: NDArray[np.bool_], rng: np.random.Generator, scale: tuple[float, float], limit: int
) -> NDArray[np.float32]:
    """Return the XYXY box of a mask (H, W), times ``scale``, each side moved by up to 10 % or 20 pixels.

    Args:
        mask: (H, W), not empty.
        rng: Source of the noise.
        scale: Pixels of the result per pixel of the mask, (x, y).
        limit: Corners are clipped to [0, limit].
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * np.tile(scale, 2)
    reach = np.minimum(BOX_NOISE * np.tile(box[2:] - box[:2], 2), MAX_BOX_NOISE)
    moved: NDArray[np.float32] = np.clip(box + rng.uniform(-1, 1, 4) * reach, 0, limit).astype(np.float32)
    return moved


def error_clicks(
    logits: Tensor, targets: Tensor, stride: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a click for each prompt, uniform over where the prediction is wrong.

    Args:
        logits: (P, h, w), cut at 0.
        targets: (P, h, w) in [0, 1], cut at 0.5.
        stride: Pixels of the input per pixel of the logits.
        generator: Source of the draw, on the CPU: three numbers for each prompt.

    Returns:
        Points (P, 2) as (x, y) in pixels of the input, and labels (P,): 1 where the mask was missed, 0 where
        too much was taken. Where nothing is wrong, a point of the mask, or without a mask any point outside.
    """
    truth = targets > 0.5
    wrong = (logits > 0) ^ truth
    nothing_wrong = ~wrong.flatten(1).any(dim=1)
    wrong = torch.where(nothing_wrong[:, None, None], truth, wrong)
    empty = ~wrong.flatten(1).any(dim=1)
    wrong = wrong | empty[:, None, None]
    draws = upload(torch.rand(len(wrong), 3, generator=generator), wrong.device)
    row, column = _pick(wrong, draws[:, 0])
    labels = truth[torch.arange(len(truth), device=truth.device), row, column]
    cells = torch.stack([column, row], dim=1)
    points = (cells + draws[:, 1:]) * stride - 0.5
    return points, labels.to(torch.float32)


def _pick(flags: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row and column (P,) of one of the set flags (P, h, w) each, by draws (P,) in [0, 1).

    Rows first, so that the running sums are short: a device makes each in one piece.
    """
    index = torch.arange(len(flags), device=flags.device)
    in_row = flags.sum(dim=2)  # (P, h)
    up_to = in_row.cumsum(dim=1)
    total = up_to[:, -1]
    wanted = (draws * total).long().minimum(total - 1)  # how many set flags come before
    row = (up_to <= wanted[:, None]).sum(dim=1)
    wanted = wanted - (up_to[index, row] - in_row[index, row])
    column = (flags[index, row].cumsum(dim=1) <= wanted[:, None]).sum(dim=1)
    return row, column
