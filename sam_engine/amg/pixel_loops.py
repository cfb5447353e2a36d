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

from sam_engine.amg.bilinear import SUPPORT, Axis, Floats, Geometry, Ints, pixel_as_torch
from sam_engine.compute.compiled import compiled

Bools = NDArray[np.bool_]

ROUNDING = np.float32(2e-6)
"""Bound of the difference between two orders of summation, relative to the largest logit; 6e-7 is reached."""

_WITHOUT_SIGN = np.int32(0x7FFFFFFF)


@compiled
def margin_of(logits: Floats) -> np.float32:
    """Return how far from a cut a pixel must be for its side to be certain."""
    return max(largest_of(logits), np.float32(1e-30)) * ROUNDING


@compiled
def largest_of(logits: Floats) -> np.float32:
    """Return the largest magnitude. Without signs, floats are ordered as the integers of their bits."""
    bits = logits.view(np.int32)
    largest = np.int32(0)
    for i in range(bits.shape[0]):
        for j in range(bits.shape[1]):
            largest = max(largest, bits[i, j] & _WITHOUT_SIGN)
    result: np.float32 = np.int32(largest).view(np.float32)
    return result


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
    lowest, highest = _memory_of_extremes(logits)
    left, top, right, bottom = len(x.block), len(y.block), -1, -1
    least_low, most_high = 0, 0
    for by in range(len(y.start)):
        _extremes(logits, y.support[by], lowest, highest)
        counts = _sort_blocks(lowest, highest, x, cuts, margin, is_open[by])
        measures[0] += counts[0] * y.length[by]
        measures[1] += counts[1] * y.length[by]
        measures[2] += counts[2] * y.length[by]
        least_low += counts[3] * y.length[by]
        most_high += counts[4] * y.length[by]
        if counts[1] > 0:
            top, bottom = min(top, y.start[by]), max(bottom, y.start[by] + y.length[by] - 1)
            first, last = _ends_above(lowest, x.support, is_open[by], cuts[1])
            left, right = min(left, x.start[first]), max(right, x.start[last] + x.length[last] - 1)
    if np.float32(most_high) / np.float32(max(least_low, 1)) < min_stability:
        measures[0], measures[1], measures[2] = least_low, 0, most_high
        return measures
    across, columns, memory = _memory_for(x)
    for by in range(len(y.start)):
        pixels = memory[: _upscale_open(logits, y.support[by], x, is_open[by], across, columns)]
        if len(pixels) == 0:
            continue
        for row in range(y.start[by], y.start[by] + y.length[by]):
            _evaluate(across, y.weights, row, pixels)
            low, area, high, num_near = _count(pixels, cuts, margin)
            if num_near > 0:
                _settle(logits, geometry, row, columns, cuts, margin, pixels)
                low, area, high, _ = _count(pixels, cuts, margin)
            measures[0] += low
            measures[1] += area
            measures[2] += high
            if area > 0:
                top, bottom = min(top, row), max(bottom, row)
                left, right = _widen(left, right, columns, pixels, cuts[1])
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
    lowest, highest = _memory_of_extremes(logits)
    is_open, (across, columns, memory) = np.zeros(len(x.start), dtype=np.bool_), _memory_for(x)
    for by in range(y.block[top], y.block[bottom] + 1):
        first_row, end_row = max(top, y.start[by]), min(bottom + 1, y.start[by] + y.length[by])
        _extremes(logits, y.support[by], lowest, highest)
        for bx in range(x.block[left], x.block[right] + 1):
            least, most = lowest[x.support[bx]], highest[x.support[bx]]
            is_open[bx] = least <= cut + margin and most >= cut - margin
            if not is_open[bx] and least > cut:
                first, end = max(left, x.start[bx]), min(right + 1, x.start[bx] + x.length[bx])
                for column in range(first - left, end - left):
                    drawn[column, first_row - top : end_row - top] = True
        pixels = memory[: _upscale_open(logits, y.support[by], x, is_open, across, columns)]
        if len(pixels) == 0:
            continue
        for row in range(first_row, end_row):
            _evaluate(across, y.weights, row, pixels)
            if _is_any_near(pixels, cut, margin):
                _settle(logits, geometry, row, columns, cuts, margin, pixels)
            for k in range(len(pixels)):
                if left <= columns[k] <= right:
                    drawn[columns[k] - left, row - top] = pixels[k] > cut
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
def logits_that_matter(logits: Floats, cut: np.float32, margin: np.float32) -> Bools:
    """Return which of (h, w) logits are among 3 x 3 that do not agree for certain about a cut."""
    height, width = logits.shape
    matter = np.zeros((height, width), dtype=np.bool_)
    lowest, highest = _memory_of_extremes(logits)
    is_open, among = np.zeros(width + SUPPORT - 1, dtype=np.bool_), np.empty(width, dtype=np.bool_)
    for i in range(height):
        _extremes(logits, i, lowest, highest)
        for j in range(width):
            is_open[j + SUPPORT - 1] = (lowest[j] <= cut + margin) & (highest[j] >= cut - margin)
        for j in range(width):
            among[j] = is_open[j] | is_open[j + 1] | is_open[j + 2]
        for row in matter[i : i + SUPPORT]:
            for j in range(width):
                row[j] |= among[j]
    return matter


@compiled
def _memory_for(x: Axis) -> tuple[Floats, Ints, Floats]:
    """Return memory for the open columns of a row of blocks, see `_upscale_open`, and for their pixels."""
    width = len(x.block)
    across, columns = np.empty((SUPPORT, width), dtype=np.float32), np.empty(width, dtype=np.int64)
    return across, columns, np.empty(width, dtype=np.float32)


@compiled
def _memory_of_extremes(logits: Floats) -> tuple[Floats, Floats]:
    """Return memory for `_extremes`."""
    length = logits.shape[1] + SUPPORT - 1
    return np.empty(length, dtype=np.float32), np.empty(length, dtype=np.float32)


@compiled
def _extremes(logits: Floats, first: int, lowest: Floats, highest: Floats) -> None:
    """Write the lowest and highest of the 3 x 3 logits, fewer at the border, that begin at each of a row."""
    height, width = logits.shape
    row_0 = logits[first]
    row_1, row_2 = logits[min(first + 1, height - 1)], logits[min(first + 2, height - 1)]
    for j in range(width):
        lowest[j] = min(row_0[j], row_1[j], row_2[j])
        highest[j] = max(row_0[j], row_1[j], row_2[j])
    lowest[width:], highest[width:] = lowest[width - 1], highest[width - 1]
    for j in range(width):
        lowest[j] = min(lowest[j], lowest[j + 1], lowest[j + 2])
        highest[j] = max(highest[j], highest[j + 1], highest[j + 2])


@compiled
def _sort_blocks(
    lowest: Floats, highest: Floats, x: Axis, cuts: Floats, margin: np.float32, is_open: Bools
) -> tuple[int, int, int, int, int]:
    """Write which blocks (BX,) of a row are open, because their logits do not agree for certain about a cut.

    Returns:
        How many columns of the others lie above each of three cuts; and of all blocks, how many lie above the
        first for certain, and how many may lie above the last.
    """
    cut_0, cut_1, cut_2 = cuts[0], cuts[1], cuts[2]
    low, area, high, surely_low, perhaps_high = 0, 0, 0, 0, 0
    support, lengths = x.support, x.length
    for bx in range(len(lengths)):
        least, most, length = lowest[support[bx]], highest[support[bx]], lengths[bx]
        opened = (
            ((least <= cut_0 + margin) & (most >= cut_0 - margin))
            | ((least <= cut_1 + margin) & (most >= cut_1 - margin))
            | ((least <= cut_2 + margin) & (most >= cut_2 - margin))
        )
        is_open[bx] = opened
        closed_length = 0 if opened else length
        low += closed_length * (least > cut_0)
        area += closed_length * (least > cut_1)
        high += closed_length * (least > cut_2)
        surely_low += length * (least > cut_0 + margin)
        perhaps_high += length * (most >= cut_2 - margin)
    return low, area, high, surely_low, perhaps_high


@compiled
def _ends_above(lowest: Floats, support: Ints, is_open: Bools, cut: np.float32) -> tuple[int, int]:
    """Return the first and last block of a row that is not open and lies above the cut; there is one."""
    first, last = 0, len(support) - 1
    while is_open[first] or lowest[support[first]] <= cut:
        first += 1
    while is_open[last] or lowest[support[last]] <= cut:
        last -= 1
    return first, last


@compiled
def _upscale_open(logits: Floats, first: int, x: Axis, is_open: Bools, across: Floats, columns: Ints) -> int:
    """Upscale three rows of logits along x where blocks are open, side by side into ``across`` (3, W).

    ``columns`` (W,) says which columns they are. Rows beyond the foot are those of the foot.

    Returns:
        How many columns.
    """
    height, width = logits.shape
    row_0, row_1, row_2 = first, min(first + 1, height - 1), min(first + 2, height - 1)
    place = 0
    for bx in range(len(x.start)):
        if not is_open[bx]:
            continue
        left, start, length = x.support[bx], x.start[bx], x.length[bx]
        middle, right = min(left + 1, width - 1), min(left + 2, width - 1)
        a0, a1, a2 = logits[row_0, left], logits[row_0, middle], logits[row_0, right]
        b0, b1, b2 = logits[row_1, left], logits[row_1, middle], logits[row_1, right]
        c0, c1, c2 = logits[row_2, left], logits[row_2, middle], logits[row_2, right]
        for k in range(length):
            weight_0, weight_1, weight_2 = (
                x.weights[0, start + k],
                x.weights[1, start + k],
                x.weights[2, start + k],
            )
            across[0, place + k] = a0 * weight_0 + a1 * weight_1 + a2 * weight_2
            across[1, place + k] = b0 * weight_0 + b1 * weight_1 + b2 * weight_2
            across[2, place + k] = c0 * weight_0 + c1 * weight_1 + c2 * weight_2
            columns[place + k] = start + k
        place += length
    return place


@compiled
def _evaluate(across: Floats, weights: Floats, row: int, pixels: Floats) -> None:
    """Write the pixels of a row from three rows of logits that are upscaled across."""
    weight_0, weight_1, weight_2 = weights[0, row], weights[1, row], weights[2, row]
    for k in range(len(pixels)):
        pixels[k] = across[0, k] * weight_0 + across[1, k] * weight_1 + across[2, k] * weight_2


@compiled
def _settle(
    logits: Floats,
    geometry: Geometry,
    row: int,
    columns: Ints,
    cuts: Floats,
    margin: np.float32,
    pixels: Floats,
) -> None:
    """Bring the uncertain pixels of a row to the side of a cut where torch has them."""
    for k in range(len(pixels)):
        for cut in cuts:
            if abs(pixels[k] - cut) <= margin:
                pixels[k] = pixel_as_torch(logits, geometry, row, columns[k])
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
def _widen(left: int, right: int, columns: Ints, pixels: Floats, cut: np.float32) -> tuple[int, int]:
    """Return the first and last column of a mask so far, with those of a row's pixels above the cut."""
    for k in range(len(pixels)):
        if columns[k] >= left or pixels[k] > cut:
            left = min(left, columns[k])
            break
    for k in range(len(pixels) - 1, -1, -1):
        if columns[k] <= right or pixels[k] > cut:
            right = max(right, columns[k])
            break
    return left, right


@compiled
def _is_any_near(pixels: Floats, cut: np.float32, margin: np.float32) -> bool:
    """Return whether a pixel is so near to a cut that its side is uncertain."""
    num_near = 0
    for k in range(len(pixels)):
        num_near += abs(pixels[k] - cut) <= margin
    return num_near > 0
