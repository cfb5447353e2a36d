"""Paste things of one training image onto another.

Source: Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation".
"""

import numpy as np
from numpy.typing import NDArray

MAX_PASTED = 3
"""Things pasted at once."""
MAX_PASTED_FRACTION = 0.3
"""Of the image, that one pasted thing may cover."""
MIN_VISIBLE = 0.5
"""A mask of which less than this is left under what was pasted is no longer asked for."""

Masks = list[NDArray[np.bool_]]


def paste(
    image: NDArray[np.float32],
    masks: Masks,
    other: NDArray[np.float32],
    other_masks: Masks,
    rng: np.random.Generator,
) -> Masks:
    """Paste up to three things of ``other`` on ``image``, in place, where they are in theirs.

    Args:
        image: (H, W, 3).
        masks: (H, W) each.
        other: (H', W', 3).
        other_masks: (H', W') each.
        rng: Source of the choice.

    Returns:
        The pasted masks, and what is left of the others that can still be seen, (H, W) each.
    """
    height, width = min(len(image), len(other)), min(image.shape[1], other.shape[1])
    for number in rng.permutation(len(other_masks))[:MAX_PASTED]:
        mask = np.zeros(image.shape[:2], bool)
        mask[:height, :width] = other_masks[number][:height, :width]
        if not 0 < mask.mean() <= MAX_PASTED_FRACTION:
            continue
        image[mask] = other[:height, :width][mask[:height, :width]]
        masks = [mask, *_cover(masks, mask)]
    return masks


def _cover(masks: Masks, cover: NDArray[np.bool_]) -> Masks:
    """Return what is left of masks under a cover, without those mostly hidden."""
    left = [mask & ~cover for mask in masks]
    return [
        rest for rest, mask in zip(left, masks, strict=True) if rest.sum() >= max(1, MIN_VISIBLE * mask.sum())
    ]
