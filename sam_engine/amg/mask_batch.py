"""The nouns of the mask generator: crops, candidate masks in columns; and the clean-up of finished masks."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.amg.found_mask import FoundMask
from sam_engine.amg.measure import LogitFrame
from sam_engine.amg.packed_logits import KeptLogits
from sam_engine.modeling.segmenter import ImageEmbedding
from sam_engine.ops.boxes import CropBox, box_nms
from sam_engine.ops.masks import largest_region_area, remove_small_regions
from sam_engine.ops.resize import ResizeLongestSide
from sam_engine.ops.rle import Runs, box_of, decode_runs, mask_to_runs

Image = NDArray[np.uint8]
"""(H, W, 3) RGB."""


Prompts = NDArray[np.float64]
"""(P, 2) points (x, y), or (P, 4) boxes XYXY."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crop:
    """A part of one image that is encoded and prompted by itself."""

    index: int
    """Which crop of its image; 0 is the whole image."""
    box: CropBox
    """XYXY in the image, right and bottom exclusive."""
    image_size: tuple[int, int]
    """(H, W) of the image."""
    frame: LogitFrame
    """Where logits lie over the crop."""
    given: Prompts
    """In pixels of the crop."""

    def of(self, image: Image) -> Image:
        """Cut the crop out of its (H, W, 3) image."""
        left, top, right, bottom = self.box
        return np.ascontiguousarray(image[top:bottom, left:right])

    def prompts(self) -> NDArray[np.float32]:
        """Return the prompts in pixels of the model's input, (P, 2) or (P, 4)."""
        # Scaled in float64, as the original does; only the result is rounded.
        transform = ResizeLongestSide(self.frame.image_size)
        corners = self.given.reshape(len(self.given), -1, 2)
        scaled = transform.apply_coords(corners, self.frame.original_size)
        return scaled.reshape(self.given.shape).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedCrop:
    """A crop, ready to be prompted."""

    crop: Crop
    embedding: ImageEmbedding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskBatch:
    """N masks of one image in columns. Index it with a boolean or int64 tensor to filter or reorder."""

    logits: KeptLogits
    """Of N masks, over the padded square input of the mask's crop."""
    predicted_iou: Tensor
    """(N,) float32."""
    stability_score: Tensor
    """(N,) float32."""
    boxes_xyxy: Tensor
    """(N, 4) int64, inclusive pixel indices in the image."""
    prompt_index: Tensor
    """(N,) int64: which point of the crop's grid."""
    crop_index: Tensor
    """(N,) int64: which crop of the image."""

    def __len__(self) -> int:
        return len(self.predicted_iou)

    def __getitem__(self, index: Tensor) -> "MaskBatch":
        return MaskBatch(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @staticmethod
    def cat(batches: "Sequence[MaskBatch]") -> "MaskBatch":
        """Return the rows of all batches, of which there must be at least one, in order."""
        names = [field.name for field in fields(MaskBatch) if field.name != "logits"]
        columns = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
        return MaskBatch(
            logits=KeptLogits([row for batch in batches for row in batch.logits.rows]), **columns
        )


def clean_up_masks(
    masks: Sequence[FoundMask], size: tuple[int, int], *, min_area: int, drop_small: bool, nms_thresh: float
) -> list[FoundMask]:
    """Fill small holes, remove small islands, then drop the duplicates that this made.

    Args:
        masks: Of one image.
        size: (H, W) of the image.
        min_area: Holes and islands of fewer pixels are small.
        drop_small: Drop masks that, their holes filled, have no region of ``min_area`` pixels; otherwise
            such a mask keeps its largest.
        nms_thresh: See `box_nms`.

    Returns:
        The masks that did not change, then those that did and do not overlap others too much.
    """
    cleaned, scores = [], []
    for mask in masks:
        runs = _without_small_regions(mask.runs, size, min_area, drop_small)
        if runs is None:
            continue
        scores.append(float(runs is mask.runs))
        if runs is mask.runs:
            cleaned.append(mask)
        else:
            cleaned.append(replace(mask, runs=runs, box_xyxy=box_of(runs, size)))
    boxes = torch.tensor([mask.box_xyxy for mask in cleaned]).reshape(-1, 4)
    return [cleaned[i] for i in box_nms(boxes, torch.tensor(scores), nms_thresh).tolist()]


def _without_small_regions(runs: Runs, size: tuple[int, int], min_area: int, drop_small: bool) -> Runs | None:
    """Return the cleaned runs, ``runs`` itself if nothing was small, or None if the mask is to go."""
    mask = decode_runs(runs, size, max_pixels=size[0] * size[1])
    top, left, bottom, right = _window_of(box_of(runs, size), size, min_area)
    window = mask[top:bottom, left:right]
    window, filled = remove_small_regions(window, min_area, "holes")
    if drop_small and largest_region_area(window) < min_area:
        return None
    window, cleared = remove_small_regions(window, min_area, "islands")
    if not filled and not cleared:
        return runs
    mask[top:bottom, left:right] = window
    return mask_to_runs(mask)


def _window_of(
    box_xyxy: tuple[int, int, int, int], size: tuple[int, int], min_area: int
) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right), exclusive, of a part of the image that can be cleaned up by itself.

    It is the mask's box and ``min_area`` pixels around it, as far as the image reaches. Background
    around the mask is as connected in there as in the image, and what of it is cut off was not small: the
    rest is not either. Its corner has even indices: OpenCV numbers regions by blocks of 2 x 2.
    """
    left, top, right, bottom = box_xyxy
    return (
        max(0, top - min_area) & ~1,
        max(0, left - min_area) & ~1,
        min(size[0], bottom + 1 + min_area),
        min(size[1], right + 1 + min_area),
    )
