"""From low-resolution logits to what is known of a mask in the image.

The model's logits lie over its padded square input. Here they are brought to the pixels of the image or crop
that was encoded, thresholded, measured and turned into run lengths. Memory is bounded: masks are upscaled
`MAX_PIXELS_AT_ONCE` at a time, however many there are.

Legend: N masks, (h, w) low-resolution logits, (H, W) pixels of the image or crop.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sam_engine.ops.masks import batched_mask_to_box, calculate_stability_score, count_pixels
from sam_engine.ops.resize import upscale_logits
from sam_engine.ops.rle import Runs, crop_to_runs

MAX_PIXELS_AT_ONCE = 2**25
"""Logits that are upscaled together; 128 MiB in float32. Does not change the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitFrame:
    """Where low-resolution logits lie. Sizes are (H, W) in pixels."""

    image_size: int
    """Side of the model's square input, which the logits cover."""
    input_size: tuple[int, int]
    """Of the image within the square; the rest is padding."""
    original_size: tuple[int, int]
    """Of the image or crop as it was given."""

    @property
    def masks_at_once(self) -> int:
        """How many masks may be upscaled together, in threes."""
        height, width = self.original_size
        return 3 * max(1, MAX_PIXELS_AT_ONCE // (3 * max(height * width, self.image_size**2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskMeasures:
    """What is measured on N masks."""

    stability_score: Tensor
    """(N,) float32."""
    area: Tensor
    """(N,) int32, in pixels of the frame's original size."""
    boxes_xyxy: Tensor
    """(N, 4) int64, inclusive pixel indices; all 0 for an empty mask."""


def measure_masks(
    logits: Tensor, frame: LogitFrame, threshold: float, stability_offset: float
) -> MaskMeasures:
    """Measure masks at full resolution.

    Args:
        logits: (N, h, w).
        frame: Where they lie.
        threshold: Logits above this are foreground.
        stability_offset: See `calculate_stability_score`.
    """
    stability, area, boxes = [], [], []
    for upscaled in upscaled_chunks(logits, frame):
        masks = upscaled > threshold
        stability.append(calculate_stability_score(upscaled, threshold, stability_offset))
        area.append(count_pixels(masks))
        boxes.append(batched_mask_to_box(masks))
    return MaskMeasures(
        stability_score=torch.cat([logits.new_empty(0, dtype=torch.float32), *stability]),
        area=torch.cat([logits.new_empty(0, dtype=torch.int32), *area]),
        boxes_xyxy=torch.cat([logits.new_empty(0, 4, dtype=torch.int64), *boxes]),
    )


def masks_to_runs(
    logits: Tensor,
    frame: LogitFrame,
    threshold: float,
    boxes_xyxy: Tensor,
    origin: tuple[int, int],
    size: tuple[int, int],
) -> list[Runs]:
    """Return the run lengths of masks in the image that the frame is a crop of.

    Args:
        logits: (N, h, w).
        frame: Where they lie.
        threshold: Logits above this are foreground.
        boxes_xyxy: (N, 4) from `measure_masks`, in pixels of the crop.
        origin: (y, x) of the crop in the image.
        size: (H, W) of the image.
    """
    boxes = iter(boxes_xyxy.tolist())
    runs = []
    for upscaled in upscaled_chunks(logits, frame):
        for mask in (upscaled > threshold).cpu().numpy():
            left, top, right, bottom = next(boxes)
            inside = mask[top : bottom + 1, left : right + 1]
            runs.append(crop_to_runs(inside, (origin[0] + top, origin[1] + left), size))
    return runs


def upscaled_chunks(logits: Tensor, frame: LogitFrame) -> Iterator[Tensor]:
    """Yield (n, H, W) logits of as many masks as memory allows for, until all N have been.

    They are upscaled as maps of three channels, as the original does for the three masks of a prompt: torch
    chooses its kernel by the number of channels, and the kernels round differently.
    """
    for start in range(0, len(logits), frame.masks_at_once):
        chunk = logits[start : start + frame.masks_at_once]
        threes = F.pad(chunk, (0, 0, 0, 0, 0, -len(chunk) % 3)).unflatten(0, (-1, 3))
        upscaled = upscale_logits(threes, frame.image_size, frame.input_size, frame.original_size)
        yield upscaled.flatten(0, 1)[: len(chunk)]
