"""Measure masks on a device, from low-resolution logits: the twin of `ops.low_res` that never waits.

The idea is the same: pixels that share their 3 x 3 low-resolution logits form a block, and where these agree
on which side of each cut they lie, so do the block's pixels; those of other blocks, the open ones, are
evaluated. How many are open is known on the device only, so that their list has a length fixed beforehand;
what does not fit is told, and measured again. Pixels are means in one step, not torch's two: on a device,
masks are promised up to rounding.

Legend: N masks, (h, w) low-resolution logits, (H, W) pixels, (BY, BX) blocks, K places for open blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sam_engine.amg.bilinear import SUPPORT, Axis, axes_of
from sam_engine.amg.measure import LogitFrame, MaskMeasures
from sam_engine.compute.device import upload
from sam_engine.ops.masks import count_true, first_and_last, stability_of_counts

OPEN_SHARE = 1 / 16
"""Blocks that may be open, of those of all masks that are measured together."""
MIN_OPEN = 4096
"""And at least so many: in an image of few pixels most blocks may be open."""
PIXELS_AT_ONCE = 2**27
"""Evaluated together; 512 MiB of float32, and two or three times as much again around them. Does not change
the result."""
LOGITS_AT_ONCE = 2**26
"""Measured together, in a few bytes each. Does not change the result."""

NUM_COLUMNS = 8
"""Of `measure_masks`: pixels above each of three cuts, XYXY box, whether all open blocks were evaluated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _DeviceAxis:
    """An `Axis` on the device."""

    support: Tensor
    start: Tensor
    length: Tensor
    """(B,) int16."""
    weights: Tensor
    """(3, L, B): of the L pixels of each block; NaN beyond a block's length."""
    block: Tensor

    @classmethod
    def of(cls, axis: Axis, device: torch.device) -> Self:
        """Upload an axis."""
        num_samples, num_pixels = axis.weights.shape
        by_block = np.full((num_samples, axis.length.max(), len(axis.start)), np.nan, dtype=np.float32)
        by_block[:, np.arange(num_pixels) - axis.start[axis.block], axis.block] = axis.weights
        return cls(
            support=upload(axis.support, device),
            start=upload(axis.start, device),
            length=upload(axis.length.astype(np.int16), device),
            weights=upload(by_block, device),
            block=upload(axis.block, device),
        )


def measure_masks(
    logits: Tensor,
    frame: LogitFrame,
    threshold: float,
    stability_offset: float,
    *,
    wanted: Tensor,
    open_share: float | None = None,
    pixels_at_once: int | None = None,
) -> Tensor:
    """Measure masks as `sam_engine.amg.measure.measure_masks` does, up to rounding, and without waiting.

    Args:
        logits: (N, h, w) float32.
        frame: Where they lie.
        threshold: Logits above this are foreground.
        stability_offset: See `calculate_stability_score`.
        wanted: (N,) bool; of the other masks, the measures are not.
        open_share: Instead of `OPEN_SHARE`; 1 is enough for whatever masks.
        pixels_at_once: Instead of `PIXELS_AT_ONCE`.

    Returns:
        (N, 8) int32 on the device, for `measures_of_table`.
    """
    axes = axes_of((logits.shape[-2], logits.shape[-1]), frame)
    y, x = (_DeviceAxis.of(axis, logits.device) for axis in axes)
    cuts = (threshold - stability_offset, threshold, threshold + stability_offset)
    open_share = OPEN_SHARE if open_share is None else open_share
    pixels_per_mask = int(np.prod([axis.length.max() * len(axis.length) for axis in axes]) * open_share)
    logits_per_mask = logits.shape[1] * logits.shape[2]
    pixels = PIXELS_AT_ONCE if pixels_at_once is None else pixels_at_once
    step = max(1, min(pixels // max(1, pixels_per_mask), LOGITS_AT_ONCE // logits_per_mask))
    tables = [logits.new_empty(0, NUM_COLUMNS, dtype=torch.int32)]
    for start in range(0, len(logits), step):
        rows = slice(start, start + step)
        tables.append(_measure(logits[rows], y, x, cuts, wanted[rows], open_share))
    return torch.cat(tables)


def measures_of_table(table: Tensor) -> MaskMeasures:
    """Return what rows of `measure_masks` say, (N, 8), on the host."""
    low, area, high = table[:, :3].unbind(dim=1)
    return MaskMeasures(
        stability_score=stability_of_counts(high, low), area=area, boxes_xyxy=table[:, 3:7].long()
    )


def is_whole(table: Tensor) -> Tensor:
    """Return (N,) bool: which masks' measures are true; the others' lists of open blocks were cut off."""
    return table[:, 7] != 0


def _measure(
    logits: Tensor,
    y: _DeviceAxis,
    x: _DeviceAxis,
    cuts: tuple[float, float, float],
    wanted: Tensor,
    open_share: float,
) -> Tensor:
    """Measure masks together; see `measure_masks`."""
    lowest, highest = _extremes(logits, cuts, y, x)
    is_open = (lowest != highest) & wanted[:, None, None]
    decided = lowest.masked_fill(is_open, 0)  # how many cuts the pixels of a block lie above
    counts = torch.stack([_pixels(decided >= level, y, x) for level in (1, 2, 3)], dim=1)  # (N, 3)
    inside = decided >= 2
    num_masks, height, width = len(logits), len(y.block), len(x.block)
    capacity = min(is_open.numel(), max(MIN_OPEN, int(open_share * is_open.numel())))
    place = torch.nonzero_static(is_open, size=capacity, fill_value=-1)  # (K, 3)
    is_filled = place[:, 0] >= 0
    mask, by, bx = place.clamp(min=0).unbind(dim=1)
    values = _evaluate(logits, y, x, mask, by, bx, is_filled)  # (LY, LX, K)
    last = count_true(is_open.flatten(1)).cumsum(dim=0)  # of each mask, in the list
    bounds = F.pad(last, (1, 0)).clamp(max=capacity)
    above = [values > cut for cut in cuts]
    # Sums over a mask's part of the list, as differences of running sums: additions at a mask's one address
    # would queue up behind each other.
    # Each of the three alone: CUDA gives each row of a running sum to one block.
    running = [count_true(flags.flatten(0, 1), dim=0).cumsum(dim=0, dtype=torch.int32) for flags in above]
    counts += torch.stack([F.pad(sums, (1, 0))[bounds].diff() for sums in running], dim=1)  # (N, 3)
    top, bottom = _extent(inside.any(dim=2), y, mask, by, above[1].any(dim=1), num_masks, height)
    left, right = _extent(inside.any(dim=1), x, mask, bx, above[1].any(dim=0), num_masks, width)
    boxes = torch.stack([left, top, right, bottom], dim=1).int()
    return torch.cat([counts, boxes, (last <= capacity).int()[:, None]], dim=1)


def _extremes(
    logits: Tensor, cuts: tuple[float, float, float], y: _DeviceAxis, x: _DeviceAxis
) -> tuple[Tensor, Tensor]:
    """Return how many cuts all, and how many some, of a block's 3 x 3 logits lie above: (N, BY, BX) uint8."""
    levels = (logits > cuts[0]).view(torch.uint8)
    for cut in cuts[1:]:
        levels = levels + (logits > cut).view(torch.uint8)
    pad = SUPPORT - 1
    levels = F.pad(levels, (0, pad, 0, pad))
    levels[:, -pad:] = levels[:, -pad - 1 : -pad]
    levels[:, :, -pad:] = levels[:, :, -pad - 1 : -pad]
    lowest, highest = (
        _over_windows(combine, levels).index_select(1, y.support).index_select(2, x.support)
        for combine in (torch.minimum, torch.maximum)
    )
    return lowest, highest


def _over_windows(combine: Callable[[Tensor, Tensor], Tensor], levels: Tensor) -> Tensor:
    """Combine each window of 3 x 3 of (N, h + 2, w + 2)."""
    levels = combine(combine(levels[:, :-2], levels[:, 1:-1]), levels[:, 2:])
    return combine(combine(levels[:, :, :-2], levels[:, :, 1:-1]), levels[:, :, 2:])


def _pixels(flags: Tensor, y: _DeviceAxis, x: _DeviceAxis) -> Tensor:
    """Return how many pixels the flagged blocks (N, BY, BX) have, (N,) int32."""
    rows = (flags * x.length).sum(dim=2, dtype=torch.int32)
    return (rows * y.length).sum(dim=1, dtype=torch.int32)


def _evaluate(
    logits: Tensor, y: _DeviceAxis, x: _DeviceAxis, mask: Tensor, by: Tensor, bx: Tensor, is_filled: Tensor
) -> Tensor:
    """Return the pixels of K blocks, (LY, LX, K); NaN beyond a block's size and in places not filled."""
    offsets = torch.arange(SUPPORT, device=logits.device)[:, None]
    rows = (y.support[by] + offsets).clamp(max=logits.shape[1] - 1)  # (3, K)
    columns = (x.support[bx] + offsets).clamp(max=logits.shape[2] - 1)
    samples = logits[mask, rows[:, None], columns[None]].masked_fill(~is_filled, torch.nan)  # (3, 3, K)
    weights_y, weights_x = y.weights[:, :, by], x.weights[:, :, bx]  # (3, L, K)
    values: Tensor | None = None
    for i in range(SUPPORT):
        row = samples[i, 0] * weights_x[0]  # (LX, K)
        for j in range(1, SUPPORT):
            row = row.addcmul_(samples[i, j], weights_x[j])
        if values is None:
            values = row * weights_y[i][:, None]
        else:
            values.addcmul_(row, weights_y[i][:, None])
    assert values is not None
    return values


def _extent(
    inside: Tensor,
    axis: _DeviceAxis,
    mask: Tensor,
    block: Tensor,
    flags: Tensor,
    num_masks: int,
    num_pixels: int,
) -> tuple[Tensor, Tensor]:
    """Return the first and last pixel of each mask along an axis, (N,); 0 where there is none.

    Args:
        inside: (N, B): blocks of which all pixels belong to the mask.
        axis: The axis.
        mask: (K,) of the open blocks.
        block: (K,) where on the axis they are.
        flags: (L, K): their pixels that belong to the mask.
        num_masks: N.
        num_pixels: Along the axis.
    """
    pixel = axis.start[block] + torch.arange(len(flags), device=flags.device)[:, None]  # (L, K)
    pixel = torch.where(flags, pixel, num_pixels)  # the others are written beyond the end
    is_set = torch.zeros(num_masks, num_pixels + 1, dtype=torch.bool, device=flags.device)
    # Not `is_set[...] = True`: CUDA would wait for the flag to come from the host.
    is_set.view(-1).index_fill_(0, (mask * (num_pixels + 1) + pixel).flatten(), True)
    return first_and_last(is_set[:, :num_pixels] | inside[:, axis.block])
