"""A drawn image on which a model must find the masks that it finds elsewhere: broken devices answer, too.

Shapes: P prompts, M masks for each, (h, w) the low-resolution logits.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from sam_engine.modeling.segmenter import Segmenter

LEAST_IOU = 0.9
"""Of a sound device, on the mean. fp16 and bf16 move pixels at borders; what is broken has no mask right."""
_SIDE = 256
_GRID = 3


def canary_image() -> NDArray[np.uint8]:
    """Return (256, 256, 3) uint8: discs and a bar on a slope of grey."""
    y, x = np.mgrid[:_SIDE, :_SIDE]
    image = np.stack([60 + x // 4, 80 + y // 4, np.full_like(x, 90)], axis=-1)
    for row, column, radius, colour in ((64, 64, 40, (220, 60, 40)), (160, 190, 50, (40, 90, 230))):
        image[(y - row) ** 2 + (x - column) ** 2 < radius**2] = colour
    image[200:230, 20:140] = (240, 220, 60)
    return image.astype(np.uint8)


def canary_masks(model: Segmenter) -> NDArray[np.bool_]:
    """Return the (P * M, h, w) masks at a grid of points on `canary_image`; no filter has a say in them."""
    with torch.inference_mode():
        [embedding] = model.encode([canary_image()])
        side = (np.arange(_GRID) + 0.5) / _GRID
        points = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 1, 2)  # (P, 1, 2), parts of a side
        height, width = embedding.input_size
        coords = torch.as_tensor(points * (width, height), dtype=torch.float32, device=model.device)
        labels = torch.ones(coords.shape[:2], dtype=torch.int64, device=model.device)
        logits, _ = model.decode(embedding, point_coords=coords, point_labels=labels)
        masks: NDArray[np.bool_] = (logits > model.mask_threshold).flatten(0, 1).cpu().numpy()
    return masks


def mean_iou(masks: NDArray[np.bool_], expected: NDArray[np.bool_]) -> float:
    """Return the mean IoU of masks and those expected in their places; two empty ones agree."""
    if masks.shape != expected.shape:
        return 0.0
    both = (masks & expected).sum(axis=(1, 2))
    either = (masks | expected).sum(axis=(1, 2))
    return float(np.where(either == 0, 1.0, both / np.maximum(either, 1)).mean())
