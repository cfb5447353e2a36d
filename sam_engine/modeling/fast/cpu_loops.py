"""Compiled loops between the matrix products of the fast decoder, for float32 on a CPU.

The innermost go over many neighbours in memory, so that the compiler computes eight or more at a time.
"""

import numpy as np
from numpy.typing import NDArray

from sam_engine.compute.compiled import compiled_in_any_order
from sam_engine.modeling.mask_shapes import LIMIT, SURE, VERY_SURE

Floats = NDArray[np.float32]

_ERF_END = np.float32(4.0)
"""From here on erf is 1, up to 2e-8."""
# erf(z) = z P(z^2) / Q(z^2) on [-4, 4], minimax in the absolute error of erf: 2.1e-8. Fitted with Lawson's
# weights to math.erf at 2000 Chebyshev nodes.
_P0, _P1, _P2, _P3, _P4, _P5 = (
    np.float32(x)
    for x in (1.128378977, 0.196238477, 0.05346582791, 0.004003102363, 0.0002880136458, 1.97472215e-06)
)
_Q1, _Q2, _Q3, _Q4, _Q5 = (
    np.float32(x) for x in (0.5072429894, 0.1164718396, 0.01544337536, 0.00121619727, 3.747825588e-05)
)
# exp(r) = 1 + r + r^2 E(r) for half a ln 2 on either side of 0: its Taylor series. ln 2 is the sum of two
# numbers, of which the first has so few digits that its multiples are exact.
_E2, _E3, _E4, _E5, _E6 = (np.float32(x) for x in (1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720))
_EXP_END, _LOG2_E = np.float32(-87), np.float32(1.4426950408889634)
_LN_2_HIGH, _LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_EXPONENT_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)
_SURE, _VERY_SURE, _LIMIT = np.float32(SURE), np.float32(VERY_SURE), np.float32(LIMIT)
_ONE, _HALF, _ROOT_HALF = np.float32(1), np.float32(0.5), np.float32(0.5**0.5)


@compiled_in_any_order
def softmax_of_tokens(scores: Floats, bias: Floats) -> None:
    """Overwrite scores (H, T, N) plus bias (H, T) with their softmax over T."""
    num_heads, num_keys, num_tokens = scores.shape
    top, total = np.empty(num_tokens, dtype=np.float32), np.empty(num_tokens, dtype=np.float32)
    for h in range(num_heads):
        top[:] = -np.inf
        for t in range(num_keys):
            for i in range(num_tokens):
                scores[h, t, i] += bias[h, t]
                top[i] = max(top[i], scores[h, t, i])
        total[:] = 0
        for t in range(num_keys):
            for i in range(num_tokens):
                value = _exp(scores[h, t, i] - top[i])
                scores[h, t, i] = value
                total[i] += value
        for i in range(num_tokens):
            total[i] = _ONE / total[i]
        for t in range(num_keys):
            for i in range(num_tokens):
                scores[h, t, i] *= total[i]


@compiled_in_any_order
def add_norm(
    x: Floats,
    before: Floats,
    scale: Floats,
    shift: Floats,
    eps: np.float32,
    pe: Floats,
    after: Floats,
    first: int,
) -> None:
    """Write ``norm(x + before)`` to ``after`` and the same plus ``pe`` to ``x``.

    Args:
        x: (n, C) of tokens from ``first`` on.
        before: (N, C) of all tokens, as the next two.
        scale: (C,) of the normalisation over C.
        shift: (C,) likewise.
        eps: Likewise.
        pe: (N, C).
        after: (N, C), may be ``before``.
        first: Number of the first token.
    """
    num_tokens, num_channels = x.shape
    count = np.float32(num_channels)
    before, pe, after = before[first:], pe[first:], after[first:]
    for i in range(num_tokens):
        total = np.float32(0)
        for j in range(num_channels):
            value = x[i, j] + before[i, j]
            x[i, j] = value
            total += value
        mean = total / count
        squares = np.float32(0)
        for j in range(num_channels):
            squares += (x[i, j] - mean) * (x[i, j] - mean)
        inverse = _ONE / np.sqrt(squares / count + eps)
        for j in range(num_channels):
            value = (x[i, j] - mean) * inverse * scale[j] + shift[j]
            after[i, j] = value
            x[i, j] = value + pe[i, j]


@compiled_in_any_order
def softmax_of_strip(scores: Floats, top: Floats, total: Floats, read: Floats) -> None:
    """Go on with a softmax over tokens that come in strips, and with the means that it weighs.

    Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".

    Args:
        scores: (Q, n) of the next strip; overwritten with ``exp(scores - top)``.
        top: (Q,) largest score so far, at first -inf.
        total: (Q,) sum of ``exp(score - top)`` so far, at first 0.
        read: (Q, C) sum of tokens with these weights so far, at first 0; that of this strip is to be added.
    """
    for q in range(len(scores)):
        largest = top[q]
        for i in range(scores.shape[1]):
            largest = max(largest, scores[q, i])
        factor = _exp(top[q] - largest)
        top[q] = largest
        added = np.float32(0)
        for i in range(scores.shape[1]):
            value = _exp(scores[q, i] - largest)
            scores[q, i] = value
            added += value
        total[q] = total[q] * factor + added
        for j in range(read.shape[1]):
            read[q, j] *= factor


@compiled_in_any_order
def norm_gelu(
    y: Floats,
    bias: Floats,
    skip: Floats | None,
    start: int,
    scale: Floats,
    shift: Floats,
    eps: np.float32,
) -> None:
    """Overwrite ``y`` with ``GELU(norm(y + bias + skip))``.

    Args:
        y: (K, C, n): K pixels of each token from ``start`` on.
        bias: (C,).
        skip: (K, C, N) of all tokens, or None.
        start: Number of the first token.
        scale: (C,) of the normalisation over C.
        shift: (C,) likewise.
        eps: Likewise.
    """
    num_pixels, num_channels, num_tokens = y.shape
    count = np.float32(num_channels)
    mean, inverse = np.empty(num_tokens, dtype=np.float32), np.empty(num_tokens, dtype=np.float32)
    for k in range(num_pixels):
        mean[:] = 0
        for c in range(num_channels):
            if skip is not None:
                _add(y[k, c], skip[k, c, start:])
            for i in range(num_tokens):
                value = y[k, c, i] + bias[c]
                y[k, c, i] = value
                mean[i] += value
        for i in range(num_tokens):
            mean[i] /= count
        inverse[:] = 0
        for c in range(num_channels):
            for i in range(num_tokens):
                inverse[i] += (y[k, c, i] - mean[i]) * (y[k, c, i] - mean[i])
        for i in range(num_tokens):
            inverse[i] = _ONE / np.sqrt(inverse[i] / count + eps)
        for c in range(num_channels):
            for i in range(num_tokens):
                y[k, c, i] = _gelu((y[k, c, i] - mean[i]) * inverse[i] * scale[c] + shift[c])


@compiled_in_any_order
def gelu_logits(
    y: Floats, bias: Floats, skip: Floats | None, start: int, weights: Floats, columns: int, logits: Floats
) -> None:
    """Write the products of ``GELU(y + bias + skip)`` with weights of channels to where their pixels are.

    Args:
        y: (16, C, n): 2 x 2 within 2 x 2 pixels of each token from ``start`` on. May be overwritten.
        bias: (C,).
        skip: (16, C, N) of all tokens, or None.
        start: Number of the first token.
        weights: (M, C).
        columns: So many tokens make a row.
        logits: (M, h, w).
    """
    num_pixels, num_channels, num_tokens = y.shape
    active = np.empty(num_tokens, dtype=np.float32)
    products = np.empty((len(weights), num_tokens), dtype=np.float32)
    for k in range(num_pixels):
        products[:] = 0
        for c in range(num_channels):
            if skip is not None:
                _add(y[k, c], skip[k, c, start:])
            for i in range(num_tokens):
                active[i] = _gelu(y[k, c, i] + bias[c])
            for m in range(len(weights)):
                for i in range(num_tokens):
                    products[m, i] += weights[m, c] * active[i]
        outer, inner = k // 4, k % 4
        top, left = 2 * (outer // 2) + inner // 2, 2 * (outer % 2) + inner % 2
        for m in range(len(weights)):
            for i in range(num_tokens):
                row, column = (start + i) // columns, (start + i) % columns
                logits[m, 4 * row + top, 4 * column + left] = products[m, i]


@compiled_in_any_order
def count_masks(logits: Floats, columns: Floats, rows: Floats, sums: Floats, both: Floats) -> None:
    """Write what `MaskCounts` says of the masks (M, h, w) of a prompt.

    Args:
        logits: (M, h, w).
        columns: (M, w).
        rows: (M, h).
        sums: (M, 4).
        both: (M, M).
    """
    num_masks, height, width = logits.shape
    inside = np.empty((num_masks, height, width), dtype=np.float32)
    columns[:] = 0
    for m in range(num_masks):
        outline, sure, very_sure, total = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for i in range(height):
            pixels = np.float32(0)
            for j in range(width):
                value = logits[m, i, j]
                flag = _ONE if value > 0 else np.float32(0)
                inside[m, i, j] = flag
                columns[m, j] += flag
                pixels += flag
                sure += _ONE if value > _SURE else np.float32(0)
                very_sure += _ONE if value > _VERY_SURE else np.float32(0)
                total += min(max(value, np.float32(0)), _LIMIT)
            rows[m, i] = pixels
            for j in range(width - 1):
                outline += abs(inside[m, i, j + 1] - inside[m, i, j])
            if i > 0:
                for j in range(width):
                    outline += abs(inside[m, i, j] - inside[m, i - 1, j])
        sums[m, 0], sums[m, 1], sums[m, 2], sums[m, 3] = outline, sure, very_sure, total
    for m in range(num_masks):
        for k in range(m + 1):
            shared = np.float32(0)
            for i in range(height):
                for j in range(width):
                    shared += inside[m, i, j] * inside[k, i, j]
            both[m, k] = both[k, m] = shared


@compiled_in_any_order
def _add(row: Floats, other: Floats) -> None:
    """Add to a row (n,) as many of the other."""
    for i in range(len(row)):
        row[i] += other[i]


@compiled_in_any_order
def _gelu(x: np.float32) -> np.float32:
    """Return x Phi(x)."""
    z = min(max(x * _ROOT_HALF, -_ERF_END), _ERF_END)
    t = z * z
    p = ((((_P5 * t + _P4) * t + _P3) * t + _P2) * t + _P1) * t + _P0
    q = ((((_Q5 * t + _Q4) * t + _Q3) * t + _Q2) * t + _Q1) * t + _ONE
    return _HALF * x * (_ONE + z * p / q)


@compiled_in_any_order
def _exp(x: np.float32) -> np.float32:
    """Return exp(x) for x <= 0, up to 4e-7 of it; below -87 exp(-87): less would be slow to compute with."""
    x = max(x, _EXP_END)  # in this order NaN stays NaN
    n = np.floor(x * _LOG2_E + _HALF)
    r = (x - n * _LN_2_HIGH) - n * _LN_2_LOW
    fraction = ((((_E6 * r + _E5) * r + _E4) * r + _E3) * r + _E2) * r * r + (r + _ONE)
    power = np.int32((np.int32(n) + _EXPONENT_BIAS) << _MANTISSA_BITS).view(np.float32)
    result: np.float32 = fraction * power
    return result
