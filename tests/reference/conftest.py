"""Comparison with ``segment_anything`` 1.0: the package, importable where torchvision is missing."""

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

COORDINATE_TRICK_MAX_NUMEL = 4000
"""Above this ``boxes.numel()``, torchvision's CPU path of batched_nms takes the classes one by one."""


def box_area(boxes: Tensor) -> Tensor:
    """Return the areas of XYXY boxes (N, 4); pixels on the far edges do not count."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return indices of the boxes kept, by descending score.

    Ties keep their order, and the 0 / 0 of degenerate boxes suppresses nothing.
    """
    order = scores.sort(descending=True, stable=True).indices
    boxes, areas = boxes[order], box_area(boxes)[order]
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        rest = boxes[i + 1 :]
        sides = torch.minimum(boxes[i, 2:], rest[:, 2:]) - torch.maximum(boxes[i, :2], rest[:, :2])
        overlap = sides.clamp(min=0).prod(dim=1)
        iou = overlap / (areas[i] + areas[i + 1 :] - overlap)
        # torchvision's CPU kernel compares the float32 IoU with the threshold as a double.
        alive[i + 1 :] &= ~(iou.double() > iou_threshold)
    return order[alive]


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Return what `nms` keeps within each class, by descending score."""
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.int64)
    if boxes.numel() <= COORDINATE_TRICK_MAX_NUMEL:
        shift = idxs.to(boxes) * (boxes.max() + 1)
        return nms(boxes + shift[:, None], scores, iou_threshold)
    keep = torch.zeros(len(boxes), dtype=torch.bool)
    for label in idxs.unique():
        members = torch.where(idxs == label)[0]
        keep[members[nms(boxes[members], scores[members], iou_threshold)]] = True
    kept = torch.where(keep)[0]
    return kept[scores[kept].sort(descending=True).indices]


def to_pil_image(image: np.ndarray) -> Image.Image:
    """Wrap (H, W, 3) uint8."""
    return Image.fromarray(image)


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize to (H, W) with Pillow's bilinear filter."""
    return image if image.size == size[::-1] else image.resize(size[::-1], Image.Resampling.BILINEAR)


def stand_in_modules() -> dict[str, ModuleType]:
    """Return modules by name that hold the few torchvision functions that the reference uses."""
    contents = {
        "torchvision": {},
        "torchvision.ops": {},
        "torchvision.ops.boxes": {"box_area": box_area, "nms": nms, "batched_nms": batched_nms},
        "torchvision.transforms": {},
        "torchvision.transforms.functional": {"resize": resize, "to_pil_image": to_pil_image},
    }
    modules = {name: ModuleType(name) for name in contents}
    for name, members in contents.items():
        modules[name].__dict__.update(members)
    return modules


@pytest.fixture(scope="session")
def segment_anything() -> ModuleType:
    """The reference package; tests are skipped where it is not installed."""
    if importlib.util.find_spec("torchvision"):
        return pytest.importorskip("segment_anything")
    # Only while the reference is imported: other packages look in sys.modules for a real torchvision.
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_in_modules().items():
            patch.setitem(sys.modules, name, module)
        return pytest.importorskip("segment_anything")
