"""Crops of an image, boxes and their non-maximum suppression.

Crop boxes are XYXY with exclusive right and bottom. Mask boxes are XYXY of inclusive pixel indices: a
one-pixel mask has a box without extent.
"""

import math
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

CropBox = tuple[int, int, int, int]


def generate_crop_boxes(
    im_size: tuple[int, ...], n_layers: int, overlap_ratio: float
) -> tuple[list[CropBox], list[int]]:
    """Return the whole image and the overlapping crops of each layer, with the layer of each.

    Layer k has ``2**k`` by ``2**k`` crops, column by column. Those of the last row and column may be some
    pixels smaller. A crop that an image of few pixels leaves without any is not made.

    Args:
        im_size: (H, W).
        n_layers: Layers besides the whole image.
        overlap_ratio: Overlap in layer 1, as a fraction of the shorter side; halved with each further layer.
    """
    height, width = im_size
    boxes: list[CropBox] = [(0, 0, width, height)]
    layers = [0]
    for layer in range(1, n_layers + 1):
        n_per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / n_per_side))
        crop_width = math.ceil((overlap * (n_per_side - 1) + width) / n_per_side)
        crop_height = math.ceil((overlap * (n_per_side - 1) + height) / n_per_side)
        lefts = [(crop_width - overlap) * i for i in range(n_per_side)]
        tops = [(crop_height - overlap) * i for i in range(n_per_side)]
        for left, top in product(lefts, tops):
            if left < width and top < height:
                boxes.append((left, top, min(left + crop_width, width), min(top + crop_height, height)))
                layers.append(layer)
    return boxes, layers


def is_box_near_crop_edge(
    boxes: Tensor, crop_box: tuple[int, ...], orig_box: tuple[int, ...], atol: float = 20.0
) -> Tensor:
    """Say of each mask whether the crop, and not the image, seems to cut it off.

    Args:
        boxes: (N, 4) XYXY in pixels of the crop.
        crop_box: Of the crop in the image.
        orig_box: Of the image.
        atol: A side this close to an edge, in pixels, is taken to touch it.

    Returns:
        (N,) bool: some side is near the crop's edge, but not near the image's.
    """
    in_image = uncrop_boxes_xyxy(boxes, crop_box).float()
    near_crop = (in_image - in_image.new_tensor(crop_box)).abs() <= atol
    near_image = (in_image - in_image.new_tensor(orig_box)).abs() <= atol
    return (near_crop & ~near_image).any(dim=1)


def uncrop_boxes_xyxy(boxes: Tensor, crop_box: tuple[int, ...]) -> Tensor:
    """Shift XYXY boxes (..., 4) from the crop's frame to the image's."""
    left, top = crop_box[:2]
    return boxes + torch.tensor([left, top, left, top], device=boxes.device)


def uncrop_points(points: Tensor, crop_box: tuple[int, ...]) -> Tensor:
    """Shift points (..., 2) from the crop's frame to the image's."""
    return points + torch.tensor(crop_box[:2], device=points.device)


def box_xyxy_to_xywh(box_xyxy: Any) -> Any:
    """Return XYWH of XYXY boxes (..., 4); W is ``x1 - x0``. A tensor, an array or a list, as was given."""
    if isinstance(box_xyxy, Tensor):
        return torch.cat([box_xyxy[..., :2], box_xyxy[..., 2:] - box_xyxy[..., :2]], dim=-1)
    boxes = np.asarray(box_xyxy)
    boxes = np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)
    return boxes if isinstance(box_xyxy, np.ndarray) else boxes.tolist()


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """Return the (N,) areas of (N, 4) XYXY boxes, in their dtype."""
    width_height = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    return width_height[:, 0] * width_height[:, 1]


def box_nms(boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return the boxes that no better box overlaps too much, best first: ``torchvision.ops.nms`` on the CPU.

    Boxes are taken by descending score, equal scores in the order given. One whose IoU with a box taken
    before is above the threshold is dropped. A box without extent neither drops nor is dropped.

    Args:
        boxes_xyxy: (N, 4).
        scores: (N,), finite.
        iou_threshold: Strict.

    Returns:
        (K,) int64 indices, on the device of ``boxes_xyxy``.
    """
    boxes = boxes_xyxy.detach().float().cpu().numpy()
    order = np.argsort(-scores.detach().cpu().numpy(), kind="stable")
    sorted_boxes = boxes[order]
    top_left, bottom_right = sorted_boxes[:, :2], sorted_boxes[:, 2:]
    areas = (bottom_right[:, 0] - top_left[:, 0]) * (bottom_right[:, 1] - top_left[:, 1])
    # float32 IoU against a float64 threshold, as torchvision compares on the CPU.
    threshold = np.float64(iou_threshold)
    remaining = np.arange(len(order))
    kept = []
    while len(remaining):
        best, rest = remaining[0], remaining[1:]
        kept.append(best)
        overlap = np.minimum(bottom_right[rest], bottom_right[best]) - np.maximum(
            top_left[rest], top_left[best]
        )
        overlap = np.maximum(overlap, 0)
        intersection = overlap[:, 0] * overlap[:, 1]
        union = areas[rest] + areas[best] - intersection
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = intersection / union  # 0 / 0 is NaN, which is above no threshold
        remaining = rest[~(iou > threshold)]
    return torch.from_numpy(order[np.array(kept, dtype=np.int64)]).to(boxes_xyxy.device)
