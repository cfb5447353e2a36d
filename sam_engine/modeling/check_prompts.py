"""What prompts must look like, wherever they are given.

A prompt of another shape is often broadcast, or cut to the shorter of two, and answered with some mask.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_engine.compute.device import is_queued


def check_prompts(
    point_coords: Any = None,
    point_labels: Any = None,
    boxes: Any = None,
    mask_input: Any = None,
    *,
    mask_size: tuple[int, int] | None = None,
    is_batch: bool = True,
) -> None:
    """Raise `ValueError` unless P prompts fit together.

    Values are looked at where that costs nothing: not on an accelerator, where to look is to wait.

    Args:
        point_coords: (P, N, 2), finite. Tensors, arrays or lists, here and below.
        point_labels: (P, N), if and only if there are coordinates.
        boxes: (P, 4) XYXY, finite, no corner beyond the one opposite.
        mask_input: (P, 1, h, w), or (1, 1, h, w) for all prompts; finite.
        mask_size: The (h, w) that the model takes. None: unknown.
        is_batch: False: one prompt, and all shapes without P. A box may also be (1, 4) then.
    """
    prompts, prefix = ("(P, ", "P, ") if is_batch else ("(", "")
    coords_shape, labels_shape, boxes_shape, mask_shape = (
        None if x is None else tuple(np.shape(x)) for x in (point_coords, point_labels, boxes, mask_input)
    )
    if (coords_shape is None) != (labels_shape is None):
        given, missing = (
            ("point_coords", "point_labels") if labels_shape is None else ("point_labels", "point_coords")
        )
        raise ValueError(f"{given} need {missing}; a label is 1 for foreground, 0 for background")
    if coords_shape is not None and (
        len(coords_shape) != 2 + is_batch or coords_shape[-1] != 2 or labels_shape != coords_shape[:-1]
    ):
        wanted = f"{prompts}N, 2) and ({prefix}N{'' if is_batch else ','})"
        got = f"{coords_shape} and {labels_shape}"
        raise ValueError(f"point_coords and point_labels have shapes {got}; wanted are {wanted}")
    if boxes_shape is not None:
        if not is_batch and boxes_shape not in ((4,), (1, 4)):
            raise ValueError(f"box has shape {boxes_shape}; wanted is (4,), or (P, 4) for several")
        if is_batch and (len(boxes_shape) != 2 or boxes_shape[1] != 4):
            raise ValueError(f"boxes have shape {boxes_shape}; wanted is (P, 4)")
    if mask_shape is not None:
        _check_mask_shape(mask_shape, mask_size, is_batch)
    if is_batch:
        _check_counts(coords_shape, boxes_shape, mask_shape)
    for name, value in (("point_coords", point_coords), ("boxes", boxes), ("mask_input", mask_input)):
        if value is not None and not _holds(value, lambda x: torch.isfinite(x).all()):
            raise ValueError(f"{name} hold a value that is not finite")
    if boxes is not None and not _holds(boxes, lambda x: (x[..., 2:] >= x[..., :2]).all()):
        raise ValueError("a box has its right before its left, or its bottom before its top; boxes are XYXY")


def _check_mask_shape(shape: tuple[int, ...], mask_size: tuple[int, int] | None, is_batch: bool) -> None:
    """Raise `ValueError` unless masks have the model's low-resolution shape."""
    fits = len(shape) == 3 + is_batch and shape[-3] == 1
    if not fits or (mask_size is not None and shape[-2:] != tuple(mask_size)):
        height, width = mask_size or ("h", "w")
        raise ValueError(
            f"mask_input has shape {shape}; wanted is ({'P, ' if is_batch else ''}1, {height}, {width}), the "
            "low-resolution logits of a previous round"
        )


def _check_counts(
    coords: tuple[int, ...] | None, boxes: tuple[int, ...] | None, masks: tuple[int, ...] | None
) -> None:
    """Raise `ValueError` unless there are as many of each; one mask may serve all prompts."""
    counts = {name: len_of[0] for name, len_of in (("point_coords", coords), ("boxes", boxes)) if len_of}
    if masks is not None and not (masks[0] == 1 and counts):
        counts["mask_input"] = masks[0]
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise ValueError(f"prompts differ in number: {said}")


def _holds(values: Any, condition: Any) -> bool:
    """Return whether a condition on a tensor holds, or must be taken to."""
    tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.ascontiguousarray(values))
    return is_queued(tensor.device) or bool(condition(tensor))
