"""``segment_anything.utils.amg``: its helpers under their names, with run lengths as dicts.

Two differ. `calculate_stability_score` gives 0 for a mask without pixels instead of NaN, and
`generate_crop_boxes` gives tuples and leaves out crops without pixels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.ops.boxes import (
    box_xyxy_to_xywh,
    generate_crop_boxes,
    is_box_near_crop_edge,
    uncrop_boxes_xyxy,
    uncrop_points,
)
from sam_engine.ops.masks import (
    batched_mask_to_box,
    calculate_stability_score,
    remove_small_regions,
    uncrop_masks,
)
from sam_engine.ops.points import build_all_layer_point_grids, build_point_grid
from sam_engine.ops.rle import decode_runs, mask_to_runs, runs_to_counts
from sam_engine.utils.mask_data import MaskData, batch_iterator

__all__ = [
    "MaskData",
    "area_from_rle",
    "batch_iterator",
    "batched_mask_to_box",
    "box_xyxy_to_xywh",
    "build_all_layer_point_grids",
    "build_point_grid",
    "calculate_stability_score",
    "coco_encode_rle",
    "generate_crop_boxes",
    "is_box_near_crop_edge",
    "mask_to_rle_pytorch",
    "remove_small_regions",
    "rle_to_mask",
    "uncrop_boxes_xyxy",
    "uncrop_masks",
    "uncrop_points",
]


def mask_to_rle_pytorch(tensor: Tensor) -> list[dict[str, Any]]:
    """Return ``{"size": [H, W], "counts": runs}`` of each of (N, H, W) masks; not 0 is foreground."""
    size = list(tensor.shape[-2:])
    return [{"size": size, "counts": mask_to_runs(mask).tolist()} for mask in tensor.bool().cpu().numpy()]


def rle_to_mask(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """Return the (H, W) bool mask of ``{"size": [H, W], "counts": runs}``."""
    height, width = rle["size"]
    return decode_runs(np.asarray(rle["counts"], dtype=np.int64), (height, width), max_pixels=height * width)


def area_from_rle(rle: dict[str, Any]) -> int:
    """Return the foreground pixels of ``{"size": [H, W], "counts": runs}``."""
    return sum(rle["counts"][1::2])


def coco_encode_rle(uncompressed_rle: dict[str, Any]) -> dict[str, Any]:
    """Return the same with COCO's text for the runs."""
    runs = np.asarray(uncompressed_rle["counts"], dtype=np.int64)
    return {"size": uncompressed_rle["size"], "counts": runs_to_counts(runs)}
