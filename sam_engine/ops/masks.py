"""What is measured on masks: stability, boxes, and the clean-up of small regions.

Legend: N masks, (H, W) pixels of an image or crop.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

BoolMask = NDArray[np.bool_]


def calculate_stability_score(masks: Tensor, mask_threshold: float, threshold_offset: float) -> Tensor:
    """Return the IoU of each mask thresholded high and low; near 1 means a crisp edge.

    Args:
        masks: (..., H, W) logits.
        mask_threshold: Logits above this are foreground.
        threshold_offset: Distance of both cuts from ``mask_threshold``, in logits.

    Returns:
        (...) float32 in [0, 1]; 0 where the low cut is empty (segment_anything gives NaN there).

    Source: Kirillov et al. 2023, "Segment Anything", appendix B.
    """
    high = count_pixels(masks > mask_threshold + threshold_offset)
    low = count_pixels(masks > mask_threshold - threshold_offset)
    return stability_of_counts(high, low)


def stability_of_counts(high: Tensor, low: Tensor) -> Tensor:
    """Return ``high / low`` in float32, and 0 where ``low`` is 0. Both are int32 pixel counts."""
    return high / torch.where(low > 0, low, 1)  # ONNX clamps no integers before opset 12


def count_pixels(masks: Tensor) -> Tensor:
    """Return the number of foreground pixels of each (..., H, W) bool mask, int32."""
    return masks.sum(-1, dtype=torch.int32).sum(-1, dtype=torch.int32)


def count_true(flags: Tensor, dim: int = -1) -> Tensor:
    """Return how many of some bool flags are set along an axis, int32.

    CUDA first copies flags to the type of their sum, eight times their memory for torch's default. Here bytes
    are added to bytes, as many at a time as cannot overflow.
    """
    parts = [part.sum(dim, dtype=torch.uint8) for part in flags.view(torch.uint8).split(255, dim)]
    return torch.stack(parts).sum(dim=0, dtype=torch.int32) if len(parts) > 1 else parts[0].int()


def batched_mask_to_box(masks: Tensor) -> Tensor:
    """Return the XYXY box of each mask, of inclusive pixel indices; all 0 for an empty mask.

    Args:
        masks: (..., H, W); what is not 0 is foreground.

    Returns:
        (..., 4) int64.
    """
    masks = masks.bool()
    left, right = first_and_last(masks.any(dim=-2))
    top, bottom = first_and_last(masks.any(dim=-1))
    return torch.stack([left, top, right, bottom], dim=-1)


def first_and_last(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of the first and last True along the last axis of (..., L) flags; 0 where none is."""
    length = flags.shape[-1]
    index = torch.arange(length, device=flags.device)
    first = index.new_full((), length) - (flags * (length - index)).amax(dim=-1)
    last = (flags * index).amax(dim=-1)
    return torch.where(first == length, 0, first), last


def uncrop_masks(masks: Tensor, crop_box: tuple[int, ...], orig_h: int, orig_w: int) -> Tensor:
    """Pad (N, h, w) masks of a crop with background to the (N, H, W) image."""
    left, top, right, bottom = crop_box
    return F.pad(masks, (left, orig_w - right, top, orig_h - bottom))


def remove_small_regions(mask: BoolMask, area_thresh: float, mode: str) -> tuple[BoolMask, bool]:
    """Fill the small holes of a mask, or remove its small islands; regions touch at sides and corners.

    Args:
        mask: (H, W); what is not 0 is foreground.
        area_thresh: Regions of fewer pixels are small.
        mode: ``holes``: background regions, the one around the mask among them, become foreground.
            ``islands``: foreground regions become background; if all are small, the largest stays.

    Returns:
        The mask, bool if it changed, and whether it did.

    Raises:
        ValueError: The mode is neither.
    """
    # On the first use, so that models run where OpenCV is missing.
    import cv2

    if mode not in ("holes", "islands"):
        raise ValueError(f"mode is {mode!r}; choose holes or islands")
    foreground = np.asarray(mask) != 0
    of_interest = ~foreground if mode == "holes" else foreground
    _, labels, stats, _ = cv2.connectedComponentsWithStats(of_interest.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]  # label 0 is what is not of interest
    is_small = areas < area_thresh
    if not is_small.any():
        return mask, False
    if mode == "holes":
        return foreground | np.append(False, is_small)[labels], True
    if is_small.all():
        is_small[np.argmax(areas)] = False
    return np.append(False, ~is_small)[labels], True


def largest_region_area(mask: BoolMask) -> int:
    """Return the pixels of the largest region of an (H, W) mask, 0 for an empty mask."""
    import cv2  # see remove_small_regions

    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return int(stats[1:, cv2.CC_STAT_AREA].max(initial=0))
