"""COCO run lengths of binary masks: bytes in, bytes out, and never more memory than was asked for. No torch.

A mask is scanned column by column. ``runs`` are the lengths of its runs, background first: an int64 array
that alternates between background and foreground and sums to H * W; the first is 0 where pixel (0, 0) is
foreground. ``counts`` is COCO's compressed text of the same. Sizes are (H, W).

pycocotools trusts its input and reads past its buffers where the runs do not fit the size; here everything
is checked before anything is allocated.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import RleError

MAX_IMAGE_PIXELS = 2**32 - 1
"""pycocotools keeps runs in 32 bits."""
MAX_DECODED_PIXELS = 2**28
"""Largest mask that `decode_counts` and `decode_runs` allocate by default: 256 MiB."""
MAX_COUNTS_CHARS = 2**24
"""Longest text that is parsed."""

_GROUP_BITS = 5
_MAX_GROUPS = 7  # 35 bits: differences of 32-bit runs
_FIRST_CHAR = 48
_LAST_CHAR = _FIRST_CHAR + 63
_CONTINUES = 0x20
_SIGN = 0x10

Runs = NDArray[np.int64]
BoolMask = NDArray[np.bool_]


def encode_mask(mask: BoolMask) -> str:
    """Return the counts of an (H, W) mask; the same bytes as ``pycocotools.mask.encode``."""
    return runs_to_counts(mask_to_runs(mask))


def decode_counts(
    counts: str | bytes, size: tuple[int, int], *, max_pixels: int = MAX_DECODED_PIXELS
) -> BoolMask:
    """Return the (H, W) bool mask, in column-major memory.

    Raises:
        RleError: The counts are malformed or do not fit ``size``, or the mask has more than ``max_pixels``.
    """
    return decode_runs(counts_to_runs(counts, size), size, max_pixels=max_pixels)


def decode_runs(runs: Runs, size: tuple[int, int], *, max_pixels: int = MAX_DECODED_PIXELS) -> BoolMask:
    """Return the (H, W) bool mask, in column-major memory.

    Raises:
        RleError: The runs do not sum to H * W, or the mask has more than ``max_pixels``.
    """
    height, width = _check_size(size)
    if height * width > max_pixels:
        raise RleError(f"a mask of {height} x {width} exceeds the limit of {max_pixels} pixels")
    _check_runs(runs, size)
    values = np.zeros(len(runs), dtype=np.bool_)
    values[1::2] = True
    return np.repeat(values, runs).reshape(size, order="F")


def mask_to_runs(mask: BoolMask) -> Runs:
    """Return the runs of an (H, W) mask, visiting only its bounding box."""
    height, width = mask.shape
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return np.array([height * width], dtype=np.int64)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return crop_to_runs(mask[top:bottom, left:right], (top, left), (height, width))


def crop_to_runs(crop: BoolMask, origin: tuple[int, int], size: tuple[int, int]) -> Runs:
    """Return the runs of a mask that is zero outside of ``crop``.

    Args:
        crop: (h, w), a part of the mask.
        origin: (y, x) of the crop's first pixel in the mask.
        size: (H, W) of the mask.
    """
    crop_height, crop_width = crop.shape
    padded = np.zeros((crop_width, crop_height + 2), dtype=np.bool_)
    padded[:, 1:-1] = crop.T
    return changes_to_runs(np.flatnonzero(padded[:, 1:] != padded[:, :-1]), crop_height, origin, size)


def changes_to_runs(changes: Runs, crop_height: int, origin: tuple[int, int], size: tuple[int, int]) -> Runs:
    """Return the runs of a mask from where the columns of a crop change; outside of it the mask is zero.

    Args:
        changes: Ascending. ``x * (crop_height + 1) + y``: pixel y of column x differs from the one above it;
            both ends of a column border on background.
        crop_height: In pixels.
        origin: (y, x) of the crop's first pixel in the mask.
        size: (H, W) of the mask.
    """
    height, width = size
    top, left = origin
    column, row = np.divmod(changes, crop_height + 1)
    positions = (column + left) * height + row + top
    if crop_height == height:
        # A run may go on from the foot of one column to the head of the next: a stop and a start there.
        meets = positions[1:] == positions[:-1]
        inner = np.ones(len(positions), dtype=np.bool_)
        inner[1:] &= ~meets
        inner[:-1] &= ~meets
        positions = positions[inner]
    pixels = height * width
    ends = positions if len(positions) and positions[-1] == pixels else np.append(positions, pixels)
    return np.diff(ends, prepend=0)


def runs_to_counts(runs: Runs) -> str:
    """Return COCO's text: each run as the difference to the last but one, in groups of five bits.

    The first three runs are written as they are. Groups go from low to high; a character is the group plus
    48, plus 32 while more follow; the last group carries the sign.
    """
    values = np.array(runs, dtype=np.int64)
    values[3:] -= np.asarray(runs, dtype=np.int64)[1:-2]
    magnitude = values ^ (values >> 63)
    num_groups = np.ones(len(values), dtype=np.int64)
    for groups in range(1, _MAX_GROUPS):
        num_groups += magnitude >= 1 << (_GROUP_BITS * groups - 1)
    ends = np.cumsum(num_groups)
    starts = ends - num_groups
    text = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    for group in range(int(num_groups.max(initial=0))):
        has_group = num_groups > group
        bits = (values[has_group] >> (_GROUP_BITS * group)) & 0x1F
        more = num_groups[has_group] > group + 1
        text[starts[has_group] + group] = bits + more * _CONTINUES + _FIRST_CHAR
    return text.tobytes().decode("ascii")


def counts_to_runs(counts: str | bytes, size: tuple[int, int]) -> Runs:
    """Return the runs, checked: none is negative, and they sum to H * W.

    Memory is in proportion to the text, whatever ``size`` says.

    Raises:
        RleError: The text is empty, too long, truncated or not COCO's; the runs do not fit ``size``; or
            ``size`` is not two positive ints of at most 2**32 - 1 pixels together.
    """
    _check_size(size)
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
    except UnicodeEncodeError:
        raise RleError("counts hold characters that are not ASCII") from None
    if not 0 < len(raw) <= MAX_COUNTS_CHARS:
        raise RleError(f"counts are {len(raw)} characters long; 1 to {MAX_COUNTS_CHARS} can be")
    text = np.frombuffer(raw, dtype=np.uint8)
    if text.min() < _FIRST_CHAR or text.max() > _LAST_CHAR:
        place = int(np.argmax((text < _FIRST_CHAR) | (text > _LAST_CHAR)))
        raise RleError(f"counts hold {chr(text[place])!r} at {place}; only characters from '0' to 'o' can be")
    groups = (text - _FIRST_CHAR).astype(np.int64)
    ends = np.flatnonzero(groups & _CONTINUES == 0)
    if len(ends) == 0 or ends[-1] != len(groups) - 1:
        raise RleError("counts end within a number: they are truncated")
    starts = np.append(0, ends[:-1] + 1)
    num_groups = ends - starts + 1
    if num_groups.max() > _MAX_GROUPS:
        raise RleError(f"counts hold a number of {num_groups.max()} groups; at most {_MAX_GROUPS} can be")
    shifts = _GROUP_BITS * (np.arange(len(groups)) - np.repeat(starts, num_groups))
    values = np.add.reduceat((groups & 0x1F) << shifts, starts)
    values -= np.where(groups[ends] & _SIGN, np.int64(1) << (_GROUP_BITS * num_groups), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    _check_runs(values, size)
    return values


def area_of(runs: Runs) -> int:
    """Return the number of foreground pixels."""
    return int(runs[1::2].sum())


def bbox_of(runs: Runs, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return XYWH in SA-1B's convention, ``x_max - x_min`` of inclusive indices; all 0 for an empty mask."""
    left, top, right, bottom = box_of(runs, size)
    return left, top, right - left, bottom - top


def box_of(runs: Runs, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return XYXY of inclusive indices; all 0 for an empty mask."""
    height, _ = size
    stops = np.cumsum(runs)
    filled = runs[1::2] > 0
    first = stops[0 : len(runs) - 1 : 2][filled]
    last = stops[1::2][filled] - 1
    if len(first) == 0:
        return 0, 0, 0, 0
    left, right = int(first[0]) // height, int(last[-1]) // height
    # A run that reaches into another column covers a foot and a head.
    if (first // height != last // height).any():
        top, bottom = 0, height - 1
    else:
        top, bottom = int((first % height).min()), int((last % height).max())
    return left, top, right, bottom


def mask_ious(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return the (first, second) IoU of masks, each ``size`` and ``counts`` as COCO has them.

    Raises:
        RleError: A mask's run lengths are malformed; pycocotools must never see those.
    """
    # Here, so that tools start where it is missing.
    from pycocotools import mask as coco_mask

    if not first or not second:
        return np.zeros((len(first), len(second)))
    encoded = []
    for side in (first, second):
        for mask in side:
            counts_to_runs(mask["counts"], tuple(mask["size"]))
        encoded.append([{"size": list(mask["size"]), "counts": mask["counts"]} for mask in side])
    return np.asarray(coco_mask.iou(*encoded, [0] * len(second)), dtype=np.float64)


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return (H, W), or raise `RleError`."""
    sides = tuple(size)
    ok = len(sides) == 2 and all(isinstance(side, int | np.integer) and side > 0 for side in sides)
    if not ok or int(sides[0]) * int(sides[1]) > MAX_IMAGE_PIXELS:
        raise RleError(f"size is {size!r}; two positive ints (H, W) of at most 2**32 - 1 pixels are wanted")
    return int(sides[0]), int(sides[1])


def _check_runs(runs: Runs, size: tuple[int, int]) -> None:
    """Raise `RleError` unless the runs fit the size."""
    pixels = int(size[0]) * int(size[1])
    # Each is bounded before they are summed, so that the sum cannot wrap.
    if len(runs) == 0 or runs.min() < 0 or runs.max() > pixels or int(runs.sum()) != pixels:
        raise RleError(f"the runs do not fit a mask of {size[0]} x {size[1]}: they must sum to {pixels}")
