"""Samples of more than 8 bits to 8: by their high byte, or by a range that decode.scale names."""

import numpy as np

from sam_engine.config import SCALE_PATTERN

LOW_BITS = 14
"""16-bit samples that reach no higher are noted: their high byte is at most a quarter of white."""
_BLOCK = 2**20


def high_bits(samples: np.ndarray, bits: int) -> np.ndarray:
    """Return unsigned samples of so many bits in [0, 255]: fewer bits stretched, of more the highest eight.

    Args:
        samples: Any shape, unsigned.
        bits: 1, 2, 4, or at least 8.
    """
    if bits < 8:
        return samples * np.uint8(255 // (2**bits - 1))
    return samples if bits == 8 else (samples >> (bits - 8)).astype(np.uint8)


def low_bits_note(samples: np.ndarray, bits: int) -> str | None:
    """Return a line for 16-bit colours that use only their low bits, and so come out dark; else None."""
    used = int(samples.max(initial=0)).bit_length() if bits == 16 else 0
    if not 0 < used <= LOW_BITS:
        return None
    return (
        f"16-bit samples that use only their lowest {used} bits, and come out dark: decode.scale="
        f"0-{2**used - 1} or decode.scale=min-max would show them"
    )


def scale_to_eight_bits(samples: np.ndarray, scale: str) -> np.ndarray:
    """Return samples stretched over [0, 255], rounded to nearest, cut where they lie outside.

    The range is one for all colours of an image, so that its hues stay. What is not a number becomes 0,
    and so does an image of one value whose range is its own.

    Args:
        samples: Any shape and type; only the colours.
        scale: As ``decode.scale``.
    """
    low, high = _range(samples, scale)
    if samples.dtype in (np.uint8, np.uint16):
        every = np.arange(np.iinfo(samples.dtype).max + 1)
        scaled: np.ndarray = _stretched(every, low, high)[samples]
        return scaled
    flat, scaled = samples.reshape(-1), np.empty(samples.size, np.uint8)
    for start in range(0, flat.size, _BLOCK):
        scaled[start : start + _BLOCK] = _stretched(flat[start : start + _BLOCK], low, high)
    return scaled.reshape(samples.shape)


def _stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    with np.errstate(over="ignore"):
        levels = (np.nan_to_num(values.astype(np.float64), nan=low) - low) * (255 / (high - low))
    return np.rint(np.clip(levels, 0, 255)).astype(np.uint8)


def _range(samples: np.ndarray, scale: str) -> tuple[float, float]:
    """Return which samples are black and white."""
    match = SCALE_PATTERN.fullmatch(scale)
    assert match is not None  # the configuration has checked it
    if match["low"]:
        return float(match["low"]), float(match["high"])
    known = samples[np.isfinite(samples)] if samples.dtype.kind == "f" else samples
    if not known.size:
        return 0.0, 0.0
    if match["first"]:
        low, high = np.percentile(known, (float(match["first"]), float(match["last"])))
        return float(low), float(high)
    return float(known.min()), float(known.max())
