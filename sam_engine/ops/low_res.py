"""Measure and encode masks without full-resolution logits: the fast twin of `ops.logits`, for the CPU.

A pixel's logit is a mean, weighted by position, of at most 3 x 3 low-resolution logits. Where these agree on
which side of a cut they lie, so does the pixel; pixels are therefore counted a block at a time, a block being
those that share their 3 x 3. Only in the blocks that remain open are pixels evaluated, and only those within
rounding of a cut are computed once more, in torch's own two steps with torch's own rounding.

Legend: N masks, (h, w) low-resolution logits, (H, W) pixels, (BY, BX) blocks, K open blocks.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.ops import logits as plain
from sam_engine.ops.bilinear import SUPPORT, Axis, Floats, Geometry, Ints, geometry_for, pixels_as_torch
from sam_engine.ops.logits import LogitFrame, MaskMeasures
from sam_engine.ops.masks import stability_of_counts
from sam_engine.ops.packed_logits import KeptLogits, PackedLogits, pack_logits
from sam_engine.ops.rle import Runs, crop_to_runs

Bools = NDArray[np.bool_]

_MASKS_AT_ONCE = 8  # their blocks and low-resolution logits fit a core's cache
_PIXELS_AT_ONCE = 2**16
_ROUNDING = 2e-6
"""Bound of the difference between two orders of summation, relative to the largest logit; 6e-7 is reached."""


def measure_masks(
    logits: Tensor, frame: LogitFrame, threshold: float, stability_offset: float, min_stability: float = 0.0
) -> MaskMeasures:
    """Measure masks; see `sam_engine.ops.logits.measure_masks`, whose results these are.

    With ``min_stability``, those of masks that cannot reach it are not: their stability is only sure to be
    less. Blurred masks have the most open blocks, and are known for what they are before these are evaluated.
    """
    geometry = geometry_for(logits, frame)
    if geometry is None:
        return plain.measure_masks(logits, frame, threshold, stability_offset)
    cuts = np.array([threshold - stability_offset, threshold, threshold + stability_offset], dtype=np.float32)
    num_masks = len(logits)
    counts = np.zeros((3, num_masks), dtype=np.int32)
    boxes = np.zeros((num_masks, 4), dtype=np.int64)
    for rows in _groups(num_masks):
        counts[:, rows], boxes[rows] = _measure(logits[rows].numpy(), geometry, cuts, min_stability)
    low, area, high = torch.from_numpy(counts)
    return MaskMeasures(
        stability_score=stability_of_counts(high, low), area=area, boxes_xyxy=torch.from_numpy(boxes)
    )


def keep_logits(logits: Tensor, frame: LogitFrame, threshold: float) -> KeptLogits:
    """Return what `masks_to_runs` needs of (N, h, w) logits, in as little memory as is known how to."""
    geometry = geometry_for(logits, frame)
    if geometry is None:
        return KeptLogits(list(logits))
    visible = int(geometry.y.support[-1]) + SUPPORT, int(geometry.x.support[-1]) + SUPPORT
    packed: list[PackedLogits] = []
    for rows in _groups(len(logits)):
        masks = logits[rows].numpy()
        packed += pack_logits(masks, visible, threshold, _margin(masks))
    return KeptLogits(packed)


def masks_to_runs(
    logits: Tensor,
    frame: LogitFrame,
    threshold: float,
    boxes_xyxy: Tensor,
    origin: tuple[int, int],
    size: tuple[int, int],
) -> list[Runs]:
    """Return run lengths; see `sam_engine.ops.logits.masks_to_runs`, whose results these are."""
    geometry = geometry_for(logits, frame)
    if geometry is None:
        return plain.masks_to_runs(logits, frame, threshold, boxes_xyxy, origin, size)
    maps, boxes = logits.numpy(), boxes_xyxy.tolist()
    runs = []
    for mask, (left, top, right, bottom) in zip(maps, boxes, strict=True):
        columns = _draw(mask, geometry, np.float32(threshold), (left, top, right, bottom))
        runs.append(crop_to_runs(columns.T, (origin[0] + top, origin[1] + left), size))
    return runs


def _groups(num_masks: int) -> list[slice]:
    """Cut masks into groups that are worked on together."""
    return [slice(start, start + _MASKS_AT_ONCE) for start in range(0, num_masks, _MASKS_AT_ONCE)]


def _measure(
    logits: Floats, geometry: Geometry, cuts: Floats, min_stability: float
) -> tuple[NDArray[np.int32], Ints]:
    """Return pixels above each of three cuts (3, N), and XYXY boxes of those above the middle one (N, 4).

    Of masks that cannot be as stable as ``min_stability``, bounds that show it.
    """
    y, x = geometry.y, geometry.x
    num_masks = len(logits)
    padded, margin = _pad(logits), _margin(logits)
    lowest, highest = _extremes(padded, y.support, x.support)
    above = [lowest > cut for cut in cuts]
    is_open = np.zeros_like(above[0])
    for cut in cuts:
        is_open |= (lowest <= cut + margin) & (highest >= cut - margin)
    counts = np.stack([_pixels(flags & ~is_open, y, x) for flags in above])
    # Boxes: first and last pixels, so far of the blocks that are wholly inside.
    inside: Bools = above[1] & ~is_open
    height, width = int(y.length.sum()), int(x.length.sum())
    top, bottom = _extent(np.any(inside, axis=2), y, height)
    left, right = _extent(np.any(inside, axis=1), x, width)
    if min_stability > 0:
        # At most: pixels that may lie above the highest cut, over those that must above the lowest.
        most = np.stack(
            [_pixels(highest >= cuts[2] - margin, y, x), _pixels(lowest > cuts[0] + margin, y, x)]
        )
        high, low = torch.from_numpy(most.astype(np.int32))
        hopeless = (stability_of_counts(high, low) < min_stability).numpy()
        counts[::2, hopeless] = most[::-1, hopeless]
        is_open &= ~hopeless[:, None, None]
    near = []
    for mask, by, bx in _in_chunks(_places(is_open), y, x):
        above_in_blocks, uncertain = _evaluate(padded, geometry, mask, by, bx, cuts, margin)
        near += uncertain
        for total, flags in zip(counts, above_in_blocks, strict=True):
            total += np.bincount(mask, weights=_count(flags), minlength=num_masks)
        rows, columns = np.any(above_in_blocks[1], axis=1), np.any(above_in_blocks[1], axis=0)  # (L, K)
        found = np.flatnonzero(np.any(rows, axis=0))
        _widen(top, bottom, mask[found], y.start[by[found]], rows[:, found])
        _widen(left, right, mask[found], x.start[bx[found]], columns[:, found])
    cut, mask, row, column = _above_exactly(near, padded, geometry, cuts)
    np.add.at(counts, (cut, mask), 1)
    for first, last, place in ((top, bottom, row), (left, right, column)):
        np.minimum.at(first, mask[cut == 1], place[cut == 1])
        np.maximum.at(last, mask[cut == 1], place[cut == 1])
    boxes = np.stack([left, top, right, bottom], axis=1)
    boxes[right < left] = 0
    return counts.astype(np.int32), boxes


def _draw(logits: Floats, geometry: Geometry, cut: np.float32, box: tuple[int, int, int, int]) -> Bools:
    """Return one mask within its box, transposed: (box width, box height)."""
    left, top, right, bottom = box
    y, x = geometry.y, geometry.x
    rows, columns = _blocks_over(y, top, bottom), _blocks_over(x, left, right)
    padded, margin = _pad(logits[None]), _margin(logits)
    lowest, highest = _extremes(padded, y.support[rows], x.support[columns])
    inside, is_open = (lowest > cut + margin)[0].T, ((lowest <= cut + margin) & (highest >= cut - margin))[0]
    drawn = inside.repeat(x.length[columns], axis=0).repeat(y.length[rows], axis=1)
    height = drawn.shape[1]
    flat = drawn.reshape(-1)
    first_y, first_x = int(y.start[rows.start]), int(x.start[columns.start])
    cuts, near = np.array([cut], dtype=np.float32), []
    for by, bx in _in_chunks(_places(is_open), y, x):
        block_y, block_x = by + rows.start, bx + columns.start
        (flags,), uncertain = _evaluate(padded, geometry, np.zeros_like(by), block_y, block_x, cuts, margin)
        near += uncertain
        iy, ix, k = _places(flags)
        place_y, place_x = (y.start[block_y] - first_y)[k] + iy, (x.start[block_x] - first_x)[k] + ix
        flat[place_x * height + place_y] = True
    _, _, row, column = _above_exactly(near, padded, geometry, cuts)
    flat[(column - first_x) * height + row - first_y] = True
    top, left = top - first_y, left - first_x
    cropped: Bools = drawn[left : left + box[2] - box[0] + 1, top : top + box[3] - box[1] + 1]
    return cropped


def _blocks_over(axis: Axis, first: int, last: int) -> slice:
    """Return the blocks that hold the pixels from ``first`` to ``last``."""
    start, stop = np.searchsorted(axis.start, [first, last], side="right")
    return slice(int(start) - 1, int(stop))


def _pad(logits: Floats) -> Floats:
    """Repeat the last row and column, so that every support has three samples."""
    return np.pad(logits, ((0, 0), (0, SUPPORT - 1), (0, SUPPORT - 1)), mode="edge")


def _margin(logits: Floats) -> np.float32:
    """Return how far from a cut a logit must be for its side to be certain."""
    return np.float32(max(-float(logits.min()), float(logits.max()), 1e-30) * _ROUNDING)


def _extremes(padded: Floats, support_y: Ints, support_x: Ints) -> tuple[Floats, Floats]:
    """Return the lowest and highest of the 3 x 3 logits of every block, (N, BY, BX) each."""
    lowest = highest = padded
    for axis, support in ((1, support_y), (2, support_x)):
        lowest, highest = (
            combine(
                combine(_take(values, support, axis), _take(values, support + 1, axis)),
                _take(values, support + 2, axis),
            )
            for combine, values in ((np.minimum, lowest), (np.maximum, highest))
        )
    return lowest, highest


def _take(values: Floats, index: Ints, axis: int) -> Floats:
    """Return ``values`` at ``index`` along an axis; a view where the indices are consecutive."""
    if np.array_equal(index, np.arange(index[0], index[0] + len(index))):
        return values[(slice(None),) * axis + (slice(index[0], index[-1] + 1),)]
    return values.take(index, axis=axis)


def _places(flags: Bools) -> tuple[Ints, ...]:
    """Return the indices of the flags that are set, in order; faster than ``np.nonzero`` where few are."""
    return np.unravel_index(np.flatnonzero(flags), flags.shape)


def _pixels(flags: Bools, y: Axis, x: Axis) -> NDArray[np.float64]:
    """Return how many pixels the flagged blocks (N, BY, BX) have, (N,)."""
    return np.asarray((flags @ x.length.astype(np.float64)) @ y.length, dtype=np.float64)


def _extent(flags: Bools, axis: Axis, size: int) -> tuple[Ints, Ints]:
    """Return the first and last pixel of the blocks flagged, (N, B) to (N,); ``size`` and -1 if none is."""
    any_flag = flags.any(axis=1)
    first = np.where(any_flag, axis.start[flags.argmax(axis=1)], size)
    last_block = flags.shape[1] - 1 - flags[:, ::-1].argmax(axis=1)
    return first, np.where(any_flag, (axis.start + axis.length - 1)[last_block], -1)


def _widen(first: Ints, last: Ints, mask: Ints, start: Ints, flags: Bools) -> None:
    """Widen ``first`` and ``last`` of the masks by the flags (L, K) of K blocks, each of which has some."""
    np.minimum.at(first, mask, start + flags.argmax(axis=0))
    np.maximum.at(last, mask, start + len(flags) - 1 - flags[::-1].argmax(axis=0))


def _in_chunks(blocks: tuple[Ints, ...], y: Axis, x: Axis) -> Iterator[tuple[Ints, ...]]:
    """Cut lists of blocks so that the pixels of each part are few enough for a core's cache."""
    step = max(1, _PIXELS_AT_ONCE // (y.weights.shape[1] * x.weights.shape[1]))
    for start in range(0, len(blocks[0]), step):
        yield tuple(column[start : start + step] for column in blocks)


def _evaluate(
    padded: Floats, geometry: Geometry, mask: Ints, by: Ints, bx: Ints, cuts: Floats, margin: np.float32
) -> tuple[list[Bools], list[Ints]]:
    """Return for each cut which pixels of K blocks lie above it for certain, and which may.

    Returns:
        Flags (LY, LX, K) for each cut, not set beyond a block's size; and for `_above_exactly` (4, J) pixels.
    """
    y, x = geometry.y, geometry.x
    offsets = np.arange(SUPPORT)[:, None]
    support_y, support_x = y.support[by] + offsets, x.support[bx] + offsets  # (3, K)
    samples = padded[mask, support_y[:, None], support_x[None]]  # (3, 3, K)
    weights_y, weights_x = y.weights.take(by, axis=2), x.weights.take(bx, axis=2)  # (3, L, K)
    rows = [sum(samples[i, j] * weights_x[j] for j in range(SUPPORT)) for i in range(SUPPORT)]  # (LX, K) each
    values = rows[0] * weights_y[0][:, None]  # (LY, LX, K)
    for i in range(1, SUPPORT):
        values += rows[i] * weights_y[i][:, None]
    above = [values > cut + margin for cut in cuts]
    uncertain = []
    for number, (cut, flags) in enumerate(zip(cuts, above, strict=True)):
        iy, ix, k = _places(flags ^ (values > cut - margin))
        if len(k):
            row, column = y.start[by[k]] + iy, x.start[bx[k]] + ix
            uncertain.append(np.stack([np.full_like(k, number), mask[k], row, column]))
    return above, uncertain


def _above_exactly(near: Sequence[Ints], padded: Floats, geometry: Geometry, cuts: Floats) -> Ints:
    """Return those of pixels near a cut that lie above it as torch rounds them.

    Args:
        near: Arrays (4, J), together J pixels: number of the cut, mask, row, column.
        padded: As in `_evaluate`, whose second result these pixels are.
        geometry: Of the frame.
        cuts: The cuts.

    Returns:
        (4, I) of them, all cuts together, so that the many small steps of this are taken once.
    """
    pixels = np.concatenate([np.empty((4, 0), dtype=np.int64), *near], axis=1)
    cut, mask, row, column = pixels
    return pixels[:, pixels_as_torch(padded, geometry, mask, row, column) > cuts[cut]]


def _count(flags: Bools) -> Ints:
    """Return how many of (LY, LX, K) flags are set, (K,)."""
    num_pixels = flags.shape[0] * flags.shape[1]
    dtype = np.uint8 if num_pixels < 2**8 else np.uint32  # without a conversion, where it can be
    total: Ints = np.add.reduce(flags.view(np.uint8).reshape(num_pixels, -1), axis=0, dtype=dtype)
    return total
