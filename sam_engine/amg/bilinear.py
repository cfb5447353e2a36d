"""Torch's bilinear interpolation, taken apart: which samples a pixel depends on, and how torch rounds.

Two steps lead from low-resolution logits to pixels: to the model's square input, of which a part is kept,
and from there to the image. Composed, they depend on 3 x 3 samples at most, with weights that are products of
one factor for each axis. What compiled loops are given is a `NamedTuple` here: numba reads these by name.
"""

import itertools
import logging
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sam_engine.amg.measure import LogitFrame
from sam_engine.compute.compiled import compiled

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SUPPORT = 3
"""Samples along an axis that a pixel depends on, at most."""

FOUR, LERP, PLAIN = range(3)
"""How torch's kernels sum: four products, fused; along x and then y, fused; the same, not fused."""

_TRIAL_SIDE = 128


class Taps(NamedTuple):
    """Bilinear interpolation along one axis: ``weight_0 * x[index_0] + weight_1 * x[index_1]``."""

    index_0: Ints
    index_1: Ints
    weight_0: Floats
    weight_1: Floats


class Axis(NamedTuple):
    """One axis of the way from low resolution to pixels; B blocks of pixels that share their samples."""

    first_step: Taps
    """To the model's input frame."""
    second_step: Taps
    """From there to pixels."""
    support: Ints
    """(B,): the first of the low-resolution samples that block b's pixels depend on."""
    start: Ints
    """(B,): its first pixel."""
    length: Ints
    """(B,): its number of pixels."""
    block: Ints
    """(pixels,): the block of each."""
    weights: Floats
    """(3, pixels): of each of the three samples."""


class Rounding(NamedTuple):
    """How torch's bilinear kernel rounds; it depends on the processor and the number of channels."""

    fused_index: bool
    """Source positions are computed with a fused multiply-add."""
    arithmetic: int
    """`FOUR`, `LERP` or `PLAIN`."""


class Geometry(NamedTuple):
    """Everything about one frame that does not depend on the masks."""

    y: Axis
    x: Axis
    first_rounding: Rounding
    """Of the step to the model's input frame."""
    second_rounding: Rounding
    """Of that from there to pixels."""


def geometry_for(logits: Tensor, frame: LogitFrame) -> Geometry | None:
    """Return the geometry, or None where torch's rounding is not known: other devices and dtypes."""
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return None
    return _geometry((logits.shape[-2], logits.shape[-1]), frame, torch.get_num_threads())


@lru_cache(maxsize=64)
def _geometry(low_res: tuple[int, int], frame: LogitFrame, num_threads: int) -> Geometry | None:
    """Build a geometry; ``num_threads`` is part of the key because torch chooses kernels by it."""
    first = _rounding_of(frame.image_size, frame.image_size, num_threads)
    second = _rounding_of(*frame.original_size, num_threads)
    if first is None or second is None:
        log.warning("torch rounds bilinear interpolation in a way not known here; masks are measured slowly")
        return None
    y, x = axes_of(low_res, frame, (first.fused_index, second.fused_index))
    return Geometry(y=y, x=x, first_rounding=first, second_rounding=second)


@lru_cache(maxsize=64)
def axes_of(
    low_res: tuple[int, int], frame: LogitFrame, fused_index: tuple[bool, bool] = (True, True)
) -> tuple[Axis, Axis]:
    """Return both axes, y first; ``fused_index`` is of the two steps, see `Rounding`."""
    y, x = (
        _axis(
            _taps(low_res[i], frame.image_size, fused_index[0]),
            _taps(frame.input_size[i], frame.original_size[i], fused_index[1]),
        )
        for i in (0, 1)
    )
    return y, x


def _rounding_of(height: int, width: int, num_threads: int) -> Rounding | None:
    """Return how torch rounds when it interpolates three channels to this size.

    Torch has a kernel of its own for small outputs, and chooses by nothing else; so a trial of at most
    ``_TRIAL_SIDE`` speaks for all larger sizes.
    """
    return _find_rounding(min(height, _TRIAL_SIDE), min(width, _TRIAL_SIDE), num_threads)


@lru_cache(maxsize=1024)
def _find_rounding(height: int, width: int, num_threads: int) -> Rounding | None:
    """Return the rounding, found by trying; None if it is none of those known."""
    random = np.random.default_rng(0)
    source = (2 * height + 3, 2 * width + 3)  # not a multiple: all weights differ
    maps = random.standard_normal((1, 3, *source), dtype=np.float32)
    result = F.interpolate(torch.from_numpy(maps), (height, width), mode="bilinear", align_corners=False)
    for fused_index, arithmetic in itertools.product((True, False), (FOUR, LERP, PLAIN)):
        y, x = _taps(source[0], height, fused_index), _taps(source[1], width, fused_index)
        if np.array_equal(_upscale(maps[0, 0], y, x, arithmetic), result[0, 0].numpy()):
            return Rounding(fused_index=fused_index, arithmetic=arithmetic)
    return None


def _taps(num_in: int, num_out: int, fused_index: bool) -> Taps:
    """Return torch's taps for ``align_corners=False``."""
    scale = np.float32(num_in) / np.float32(num_out)
    if fused_index:
        source = (np.float64(scale) * (np.arange(num_out) + 0.5) - 0.5).astype(np.float32)
    else:
        source = scale * (np.arange(num_out, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    source = np.maximum(source, np.float32(0))
    index_0 = np.minimum(source.astype(np.int64), num_in - 1)
    weight_1 = np.minimum(source - index_0.astype(np.float32), np.float32(1))
    return Taps(
        index_0=index_0,
        index_1=np.minimum(index_0 + 1, num_in - 1),
        weight_0=np.float32(1) - weight_1,
        weight_1=weight_1,
    )


def _axis(first: Taps, second: Taps) -> Axis:
    """Join both steps and cut the axis into blocks of equal support."""
    num_pixels = len(second.index_0)
    support = first.index_0[second.index_0]
    weights = np.zeros((SUPPORT, num_pixels))
    pixels = np.arange(num_pixels)
    for between, outer in ((second.index_0, second.weight_0), (second.index_1, second.weight_1)):
        for index, inner in ((first.index_0, first.weight_0), (first.index_1, first.weight_1)):
            weights[index[between] - support, pixels] += outer.astype(np.float64) * inner[between]
    start = np.flatnonzero(np.diff(support, prepend=-1))
    # The first sample and the last serve more pixels than the others; their blocks are cut, because a device
    # evaluates all blocks at the size of the longest.
    longest = -(-num_pixels // len(start))
    parts = [np.arange(a, b, longest) for a, b in zip(start, np.append(start[1:], num_pixels), strict=True)]
    start = np.concatenate(parts)
    length = np.diff(start, append=num_pixels)
    block = np.repeat(np.arange(len(start)), length)
    return Axis(
        first_step=first,
        second_step=second,
        support=support[start],
        start=start,
        length=length,
        block=block,
        weights=weights.astype(np.float32),
    )


@compiled
def pixel_as_torch(logits: Floats, geometry: Geometry, row: int, column: int) -> np.float32:
    """Return the logit of a single pixel, to the last bit as `upscale_logits` computes it.

    Args:
        logits: (h, w) low-resolution logits.
        geometry: Of the frame.
        row: Of the pixel.
        column: Of the pixel.
    """
    first_y, first_x = geometry.y.first_step, geometry.x.first_step
    arithmetic = geometry.first_rounding.arithmetic
    y, x = geometry.y.second_step, geometry.x.second_step
    y0, y1, x0, x1 = y.index_0[row], y.index_1[row], x.index_0[column], x.index_1[column]
    return _mean(
        _interpolate(logits, first_y, first_x, y0, x0, arithmetic),
        _interpolate(logits, first_y, first_x, y0, x1, arithmetic),
        _interpolate(logits, first_y, first_x, y1, x0, arithmetic),
        _interpolate(logits, first_y, first_x, y1, x1, arithmetic),
        y.weight_0[row],
        y.weight_1[row],
        x.weight_0[column],
        x.weight_1[column],
        geometry.second_rounding.arithmetic,
    )


@compiled
def _upscale(samples: Floats, y: Taps, x: Taps, arithmetic: int) -> Floats:
    """Return a whole map, in one step."""
    result = np.empty((len(y.index_0), len(x.index_0)), dtype=np.float32)
    for row in range(result.shape[0]):
        for column in range(result.shape[1]):
            result[row, column] = _interpolate(samples, y, x, row, column, arithmetic)
    return result


@compiled
def _interpolate(samples: Floats, y: Taps, x: Taps, row: int, column: int, arithmetic: int) -> np.float32:
    """Return the sum of one step at (row, column)."""
    y0, y1, x0, x1 = y.index_0[row], y.index_1[row], x.index_0[column], x.index_1[column]
    return _mean(
        samples[y0, x0],
        samples[y0, x1],
        samples[y1, x0],
        samples[y1, x1],
        y.weight_0[row],
        y.weight_1[row],
        x.weight_0[column],
        x.weight_1[column],
        arithmetic,
    )


@compiled
def _mean(
    p00: np.float32,
    p01: np.float32,
    p10: np.float32,
    p11: np.float32,
    wy0: np.float32,
    wy1: np.float32,
    wx0: np.float32,
    wx1: np.float32,
    arithmetic: int,
) -> np.float32:
    """Return the mean of four samples in float32, rounded as ``arithmetic`` says."""
    if arithmetic == FOUR:
        value = _fma(p00, wy0 * wx0, p01 * (wy0 * wx1))
        return _fma(p11, wy1 * wx1, _fma(p10, wy1 * wx0, value))
    if arithmetic == LERP:
        return _fma(_fma(p00, wx0, p01 * wx1), wy0, _fma(p10, wx0, p11 * wx1) * wy1)
    return np.float32((p00 * wx0 + p01 * wx1) * wy0 + (p10 * wx0 + p11 * wx1) * wy1)


@compiled
def _fma(a: np.float32, b: np.float32, c: np.float32) -> np.float32:
    """Return ``a * b + c`` rounded once: the product is exact in float64."""
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))
