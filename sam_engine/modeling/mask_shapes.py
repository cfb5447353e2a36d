"""What a mask looks like, in numbers: how good it is shows better in its shape than in its token.

A mask in rags, one that ends at no edge, or whose middle is far from the click, is seldom a thing. The
decoder's tokens cannot count pixels; these numbers do, on the logits that become the mask.
P prompts of N points, M masks for each, (h, w) of their logits. Lengths are in sides of the model's square
input. Nothing here has a gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sam_engine.modeling.prompt_maps import PromptPlaces, pixel_centres

NUM_SHAPES = 15
"""Numbers of `mask_shapes`."""
SURE, VERY_SURE = 1.0, 3.0
"""Logits that less and less of a doubtful mask reaches."""
LIMIT = 8.0
"""Logits count up to this in the mean."""
SMALLEST = 1e-4
"""Added to areas before their logarithm: under 2 of 128 x 128 pixels."""
NARROW = 0.05
"""Added to the sides of a mask's box before an offset is divided by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskCounts:
    """What is counted in masks, of their foreground alone: logits left at 0 in padding change nothing."""

    columns: Tensor
    """(P, M, w) pixels in each column."""
    rows: Tensor
    """(P, M, h) pixels in each row."""
    sums: Tensor
    """(P, M, 4): neighbours across the outline; logits over `SURE`, over `VERY_SURE`; the sum of logits."""
    both: Tensor
    """(P, M, M) pixels that two masks share."""


@torch.no_grad()
def count_masks(logits: Tensor) -> MaskCounts:
    """Count the pixels of masks (P, M, h, w), in float32."""
    inside = logits > 0
    outline = (inside[..., 1:] ^ inside[..., :-1]).sum(dim=(2, 3))
    outline = outline + (inside[..., 1:, :] ^ inside[..., :-1, :]).sum(dim=(2, 3))
    sums = (
        outline,
        (logits > SURE).sum(dim=(2, 3)),
        (logits > VERY_SURE).sum(dim=(2, 3)),
        logits.clamp(0, LIMIT).sum(dim=(2, 3), dtype=torch.float32),
    )
    pixels = inside.flatten(2).float()
    return MaskCounts(
        columns=inside.sum(dim=2).float(),
        rows=inside.sum(dim=3).float(),
        sums=torch.stack([x.float() for x in sums], dim=2),
        both=pixels @ pixels.transpose(1, 2),
    )


@torch.no_grad()
def mask_shapes(counts: MaskCounts, places: PromptPlaces) -> Tensor:
    """Return 15 numbers of each mask, as (P, M, 15) float32; of an empty mask they mean nothing.

    Logarithm and root of the area; width and height of the box and the part of it that is filled; length of
    the outline for the root of the area; the parts of the area with logits over 1 and over 3, and the mean
    logit in eighths; distance of the box to the input's left, top, right and bottom side; distance in x and
    in y from the middle of the prompt's clicks and corners to the mask's centre of mass, in sides of the box.
    """
    columns, rows = counts.columns, counts.rows
    width, height = columns.shape[2], rows.shape[2]
    pixels = rows.sum(dim=2).clamp(min=1)
    area = pixels / (height * width)
    x, y = pixel_centres(width, columns), pixel_centres(height, rows)
    left, right = _margins(columns > 0)
    top, bottom = _margins(rows > 0)
    box_w, box_h = 1 - left - right, 1 - top - bottom
    clicks = (places.labels > 0).to(columns.dtype)[..., None]  # (P, N, 1)
    middle = (places.coords * clicks).sum(dim=1) / clicks.sum(dim=1).clamp(min=1)  # (P, 2)
    away_x = (middle[:, :1] - columns @ x / pixels).abs() / (box_w + NARROW)
    away_y = (middle[:, 1:] - rows @ y / pixels).abs() / (box_h + NARROW)
    outline, sure, very_sure, total = counts.sums.unbind(dim=2)
    numbers = [
        (area + SMALLEST).log(),
        area.sqrt(),
        box_w,
        box_h,
        area / (box_w * box_h).clamp(min=SMALLEST),
        outline / pixels.sqrt(),
        sure / pixels,
        very_sure / pixels,
        total / (LIMIT * pixels),
        left,
        top,
        right,
        bottom,
        away_x,
        away_y,
    ]
    return torch.stack(numbers, dim=2).float()


@torch.no_grad()
def mask_overlaps(counts: MaskCounts, first: int = 0) -> Tensor:
    """Return the IoU of every two of the masks from ``first`` on, as (P, M - first, M - first) float32.

    Alternatives that agree are seldom all wrong. An empty mask has none with any, itself included.
    """
    both, pixels = counts.both[:, first:, first:], counts.rows[:, first:].sum(dim=2)
    return both / (pixels[:, :, None] + pixels[:, None] - both).clamp(min=1)


def _margins(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parts (P, M) of a row of flags (P, M, n) before the first that is set and after the last."""
    length = occupied.shape[2]
    number = torch.arange(1, length + 1, device=occupied.device)
    last = (occupied * number).amax(dim=2)
    first = (occupied * number.flip(0)).amax(dim=2)  # counted from the end
    return 1 - first / length, 1 - last / length
