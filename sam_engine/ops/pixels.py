"""Pixels of upscaled masks, counted, bounded and drawn in compiled loops, without upscaling the masks.

A pixel's logit is a mean, weighted by position, of at most 3 x 3 low-resolution logits; pixels that share
their 3 x 3 are a block. Where these logits agree on which side of a cut they lie, so do the block's pixels.
Only the pixels of the other, open blocks are evaluated, in one step, and those within rounding of a cut once
more, in torch's own two steps with torch's own rounding.

Loops over pixels begin at 0 and index slices: only then does the compiler know that no index is negative, and
computes eight pixels at a time.

Legend: (h, w) low-resolution logits of one mask, (BY, BX) blocks, W pixels along x.
"""

import numpy as np
from numpy.typing import NDArray

from sam_engine.ops.bilinear import SUPPORT, Axis, Floats, Geometry, Ints, pixel_as_torch
from sam_engine.ops.compiled import compiled

Bools = NDArray[np.bool_]

ROUNDING = np.float32(2e-6)
"""Bound of the difference between two orders of summation, relative to the largest logit; 6e-7 is reached."""


@compiled
def margin_of(logits: Floats) -> np.float32:
    """Return how far from a cut a pixel must be for its side to be certain."""
    largest = np.float32(1e-30)
    for value in logits.flat:
        largest = max(largest, abs(value))
    return largest * ROUNDING


@compiled
def measure_mask(logits: Floats, geometry: Geometry, cuts: Floats, min_stability: np.float32) -> Ints:
    """Return how many pixels lie above each of three cuts, and the XYXY box of those above the middle one.

    Args:
        logits: (h, w).
        geometry: Of the frame.
        cuts: Three, ascending.
        min_stability: Of a mask that cannot be as stable, the outer two counts are bounds that show it, and
            all else is 0.

    Returns:
        (7,) the counts, then the box, which is all 0 for an empty mask.
    """
    measures = np.zeros(7, dtype=np.int64)
    y, x = geometry.y, geometry.x
    margin = margin_of(logits)
    is_open = np.zeros((len(y.start), len(x.start)), dtype=np.bool_)
    lowest, highest = np.empty(len(x.start), dtype=np.float32), np.empty(len(x.start), dtype=np.float32)
    left, top, right, bottom = len(x.block), len(y.block), -1, -1
    least_low, most_high = 0, 0
    for by in range(len(y.start)):
        _extremes(logits, y.support[by], x.support, lowest, highest)
        for bx in range(len(x.start)):
            num_pixels = y.length[by] * x.length[bx]
            least_low += num_pixels * (lowest[bx] > cuts[0] + margin)
            most_high += num_pixels * (highest[bx] >= cuts[2] - margin)
            is_open[by, bx] = _straddles(lowest[bx], highest[bx], cuts, margin)
            if is_open[by, bx]:
                continue
            for number in range(len(cuts)):
                measures[number] += num_pixels * (lowest[bx] > cuts[number])
            if lowest[bx] > cuts[1]:
                left, right = min(left, x.start[bx]), max(right, x.start[bx] + x.length[bx] - 1)
                top, bottom = min(top, y.start[by]), max(bottom, y.start[by] + y.length[by] - 1)
    if np.float32(most_high) / np.float32(max(least_low, 1)) < min_stability:
        measures[0], measures[1], measures[2] = least_low, 0, most_high
        return measures
    across, is_across, values = _buffers(logits, x)
    for by in range(len(y.start)):
        begin, stop = _next_open(is_open[by], 0)
        while begin < stop:
            _upscale_across(logits, y.support[by], x, across, is_across)
            first, end = x.start[begin], x.start[stop - 1] + x.length[stop - 1]
            pixels = values[: end - first]
            for row in range(y.start[by], y.start[by] + y.length[by]):
                _evaluate(across, y.support[by], y.weights, row, first, pixels)
                low, area, high, num_near = _count(pixels, cuts, margin)
                if num_near > 0:
                    _settle(logits, geometry, row, first, cuts, margin, pixels)
                    low, area, high, _ = _count(pixels, cuts, margin)
                measures[0] += low
                measures[1] += area
                measures[2] += high
                if area > 0:
                    top, bottom = min(top, row), max(bottom, row)
                    for i in range(min(left - first, len(pixels))):
                        if pixels[i] > cuts[1]:
                            left = first + i
                            break
                    for i in range(len(pixels) - 1, max(right - first, -1), -1):
                        if pixels[i] > cuts[1]:
                            right = first + i
                            break
            begin, stop = _next_open(is_open[by], stop)
    if bottom >= 0:
        measures[3], measures[4], measures[5], measures[6] = left, top, right, bottom
    return measures


@compiled
def draw_mask(logits: Floats, geometry: Geometry, cuts: Floats, box: tuple[int, int, int, int]) -> Bools:
    """Return the pixels of a mask within its box, transposed: (box width, box height).

    Args:
        logits: (h, w).
        geometry: Of the frame.
        cuts: (1,).
        box: XYXY, of inclusive indices.
    """
    y, x = geometry.y, geometry.x
    left, top, right, bottom = box
    margin, cut = margin_of(logits), cuts[0]
    drawn = np.zeros((right - left + 1, bottom - top + 1), dtype=np.bool_)
    lowest, highest = np.empty(len(x.start), dtype=np.float32), np.empty(len(x.start), dtype=np.float32)
    across, is_across, values = _buffers(logits, x)
    for by in range(y.block[top], y.block[bottom] + 1):
        first_row, end_row = max(top, y.start[by]), min(bottom + 1, y.start[by] + y.length[by])
        _extremes(logits, y.support[by], x.support, lowest, highest)
        for bx in range(x.block[left], x.block[right] + 1):
            first, end = max(left, x.start[bx]), min(right + 1, x.start[bx] + x.length[bx])
            if _straddles(lowest[bx], highest[bx], cuts, margin):
                _upscale_across(logits, y.support[by], x, across, is_across)
                for row in range(first_row, end_row):
                    pixels = values[: end - first]
                    _evaluate(across, y.support[by], y.weights, row, first, pixels)
                    if _is_any_near(pixels, cut, margin):
                        _settle(logits, geometry, row, first, cuts, margin, pixels)
                    for i in range(len(pixels)):
                        drawn[first - left + i, row - top] = pixels[i] > cut
            elif lowest[bx] > cut:
                for column in range(first - left, end - left):
                    drawn[column, first_row - top : end_row - top] = True
    return drawn


@compiled
def changes_of(drawn: Bools) -> Ints:
    """Return where the columns of a mask change, for `sam_engine.ops.rle.changes_to_runs`.

    Args:
        drawn: (w, h), from `draw_mask`.

    Returns:
        (C,) ascending.
    """
    width, height = drawn.shape
    total = 0
    for column in drawn:
        total += column[0] + column[height - 1]
        for k in range(height - 1):
            total += column[k] != column[k + 1]
    changes = np.empty(total, dtype=np.int64)
    place = 0
    for i in range(width):
        before = False
        for k in range(height):
            if drawn[i, k] != before:
                changes[place] = i * (height + 1) + k
                place += 1
                before = not before
        if before:
            changes[place] = i * (height + 1) + height
            place += 1
    return changes


@compiled
def _buffers(logits: Floats, x: Axis) -> tuple[Floats, Bools, Floats]:
    """Return memory for each row of logits upscaled across, whether it is, and for a row of pixels."""
    width = len(x.block)
    across = np.empty((len(logits), width), dtype=np.float32)
    return across, np.zeros(len(logits), dtype=np.bool_), np.empty(width, dtype=np.float32)


@compiled
def _extremes(logits: Floats, first: int, support: Ints, lowest: Floats, highest: Floats) -> None:
    """Write the lowest and highest of the 3 x 3 logits of each block (BX,) of a row of blocks."""
    height, width = logits.shape
    row_0 = logits[first]
    row_1, row_2 = logits[min(first + 1, height - 1)], logits[min(first + 2, height - 1)]
    low, high = np.empty(width, dtype=np.float32), np.empty(width, dtype=np.float32)
    for j in range(width):
        low[j] = min(row_0[j], row_1[j], row_2[j])
        high[j] = max(row_0[j], row_1[j], row_2[j])
    for bx in range(len(support)):
        left = support[bx]
        middle, right = min(left + 1, width - 1), min(left + 2, width - 1)
        lowest[bx] = min(low[left], low[middle], low[right])
        highest[bx] = max(high[left], high[middle], high[right])


@compiled
def _straddles(lowest: np.float32, highest: np.float32, cuts: Floats, margin: np.float32) -> bool:
    """Return whether the logits of a block do not agree, for certain, about one of the cuts."""
    straddles = False
    for cut in cuts:
        straddles |= lowest <= cut + margin and highest >= cut - margin
    return straddles


@compiled
def _next_open(is_open: Bools, start: int) -> tuple[int, int]:
    """Return the next run of open blocks of a row (BX,) as (first, end); they are equal if there is none."""
    first = start
    while first < len(is_open) and not is_open[first]:
        first += 1
    end = first
    while end < len(is_open) and is_open[end]:
        end += 1
    return first, end


@compiled
def _upscale_across(logits: Floats, first: int, x: Axis, across: Floats, is_across: Bools) -> None:
    """Upscale three rows of logits, or fewer at the foot, along x, unless they are already."""
    width, weights = logits.shape[1], x.weights
    for i in range(first, min(first + SUPPORT, len(logits))):
        if is_across[i]:
            continue
        is_across[i] = True
        for bx in range(len(x.start)):
            column, start, end = x.support[bx], x.start[bx], x.start[bx] + x.length[bx]
            sample_0 = logits[i, column]
            sample_1, sample_2 = logits[i, min(column + 1, width - 1)], logits[i, min(column + 2, width - 1)]
            row = across[i, start:end]
            weights_0, weights_1, weights_2 = (
                weights[0, start:end],
                weights[1, start:end],
                weights[2, start:end],
            )
            for k in range(len(row)):
                row[k] = sample_0 * weights_0[k] + sample_1 * weights_1[k] + sample_2 * weights_2[k]


@compiled
def _evaluate(across: Floats, support: int, weights: Floats, row: int, first: int, pixels: Floats) -> None:
    """Write the pixels of a row from ``first`` on, from three rows of logits that are upscaled across."""
    last, end = len(across) - 1, first + len(pixels)
    weight_0, weight_1, weight_2 = weights[0, row], weights[1, row], weights[2, row]
    row_0 = across[support, first:end]
    row_1, row_2 = across[min(support + 1, last), first:end], across[min(support + 2, last), first:end]
    for k in range(len(pixels)):
        pixels[k] = row_0[k] * weight_0 + row_1[k] * weight_1 + row_2[k] * weight_2


@compiled
def _settle(
    logits: Floats, geometry: Geometry, row: int, first: int, cuts: Floats, margin: np.float32, pixels: Floats
) -> None:
    """Bring the uncertain pixels of a row to the side of a cut where torch has them."""
    for k in range(len(pixels)):
        for cut in cuts:
            if abs(pixels[k] - cut) <= margin:
                pixels[k] = pixel_as_torch(logits, geometry, row, first + k)
                break


@compiled
def _count(pixels: Floats, cuts: Floats, margin: np.float32) -> tuple[int, int, int, int]:
    """Return how many pixels lie above each of three cuts, and how many are uncertain."""
    cut_0, cut_1, cut_2 = cuts[0], cuts[1], cuts[2]
    low, area, high, num_near = 0, 0, 0, 0
    for k in range(len(pixels)):
        value = pixels[k]
        low += value > cut_0
        area += value > cut_1
        high += value > cut_2
        num_near += min(abs(value - cut_0), abs(value - cut_1), abs(value - cut_2)) <= margin
    return low, area, high, num_near


@compiled
def _is_any_near(pixels: Floats, cut: np.float32, margin: np.float32) -> bool:
    """Return whether a pixel is so near to a cut that its side is uncertain."""
    num_near = 0
    for k in range(len(pixels)):
        num_near += abs(pixels[k] - cut) <= margin
    return num_near > 0
