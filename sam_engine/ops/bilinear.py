"""Torch's bilinear interpolation, taken apart: which samples a pixel depends on, and how torch rounds.

Two steps lead from low-resolution logits to pixels: to the model's square input, of which a part is kept,
and from there to the image. Composed, they depend on 3 x 3 samples at most, with weights that are products of
one factor for each axis.
"""

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sam_engine.ops.logits import LogitFrame

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SUPPORT = 3
"""Samples along an axis that a pixel depends on, at most."""

_TRIAL_SIDE = 128


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Taps:
    """Bilinear interpolation along one axis: ``weight_0 * x[index_0] + weight_1 * x[index_1]``."""

    index_0: Ints
    index_1: Ints
    weight_0: Floats
    weight_1: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Axis:
    """One axis of the way from low resolution to pixels."""

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
    weights: Floats
    """(3, L, B): weight of each of the three samples for each pixel; NaN beyond the block's length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How torch's bilinear kernel rounds; it depends on the processor and the number of channels."""

    fused_index: bool
    """Source positions are computed with a fused multiply-add."""
    arithmetic: str
    """``four``: a fused sum of four products; ``lerp``: fused, along x and then y; ``plain``: not fused."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Geometry:
    """Everything about one frame that does not depend on the masks."""

    y: Axis
    x: Axis
    roundings: tuple[Rounding, Rounding]
    """Of the two steps."""


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
    return Geometry(y=y, x=x, roundings=(first, second))


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
    row, column = np.indices((height, width)).reshape(2, -1)
    for fused_index, arithmetic in itertools.product((True, False), ("four", "lerp", "plain")):
        y, x = _taps(source[0], height, fused_index), _taps(source[1], width, fused_index)
        tried = _interpolate(lambda iy, ix: maps[0, 0, iy, ix], y, x, row, column, arithmetic)
        if np.array_equal(tried, result[0, 0].numpy().ravel()):
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
    # The first sample and the last serve more pixels than the others; their blocks are cut, so that arrays of
    # blocks, which are as long as the longest, stay small.
    longest = -(-num_pixels // len(start))
    parts = [np.arange(a, b, longest) for a, b in zip(start, np.append(start[1:], num_pixels), strict=True)]
    start = np.concatenate(parts)
    length = np.diff(start, append=num_pixels)
    block = np.repeat(np.arange(len(start)), length)
    by_block = np.full((SUPPORT, int(length.max()), len(start)), np.nan, dtype=np.float32)
    by_block[:, pixels - start[block], block] = weights
    return Axis(
        first_step=first,
        second_step=second,
        support=support[start],
        start=start,
        length=length,
        weights=by_block,
    )


def pixels_as_torch(padded: Floats, geometry: Geometry, mask: Ints, row: Ints, column: Ints) -> Floats:
    """Return the logits of single pixels, to the last bit as `ops.logits.upscale_logits` computes them.

    Args:
        padded: (N, h or more, w or more) low-resolution logits.
        geometry: Of the frame.
        mask: (K,) which of the N.
        row: (K,) pixel.
        column: (K,) pixel.

    Returns:
        (K,) float32.
    """
    first, second = geometry.roundings
    taps_y, taps_x = geometry.y.first_step, geometry.x.first_step

    def in_input_frame(frame_row: Ints, frame_column: Ints) -> Floats:
        return _interpolate(
            lambda y, x: padded[mask, y, x], taps_y, taps_x, frame_row, frame_column, first.arithmetic
        )

    return _interpolate(
        in_input_frame, geometry.y.second_step, geometry.x.second_step, row, column, second.arithmetic
    )


def _interpolate(
    sample: Callable[[Ints, Ints], Floats], y: Taps, x: Taps, row: Ints, column: Ints, arithmetic: str
) -> Floats:
    """Return bilinear interpolation at (row, column) in float32, rounded as ``arithmetic`` says."""
    y0, y1, x0, x1 = y.index_0[row], y.index_1[row], x.index_0[column], x.index_1[column]
    wy0, wy1, wx0, wx1 = y.weight_0[row], y.weight_1[row], x.weight_0[column], x.weight_1[column]
    p00, p01, p10, p11 = sample(y0, x0), sample(y0, x1), sample(y1, x0), sample(y1, x1)
    if arithmetic == "four":
        value = _fma(p00, wy0 * wx0, p01 * (wy0 * wx1))
        return _fma(p11, wy1 * wx1, _fma(p10, wy1 * wx0, value))
    if arithmetic == "lerp":
        return _fma(_fma(p00, wx0, p01 * wx1), wy0, _fma(p10, wx0, p11 * wx1) * wy1)
    unfused = (p00 * wx0 + p01 * wx1) * wy0 + (p10 * wx0 + p11 * wx1) * wy1
    return unfused.astype(np.float32, copy=False)


def _fma(a: Floats, b: Floats, c: Floats) -> Floats:
    """Return ``a * b + c`` rounded once: the product is exact in float64."""
    exact: Floats = (a.astype(np.float64) * b + c).astype(np.float32)
    return exact
