"""Measure and encode masks without full-resolution logits: the fast twin of `ops.logits`, for the CPU.

The work is done by the compiled loops of `ops.pixels`, in as many threads as torch may use.

Legend: N masks, (h, w) low-resolution logits, (H, W) pixels.
"""

import numpy as np
import torch
from torch import Tensor

from sam_engine.amg import measure as plain
from sam_engine.amg import pixel_loops as pixels
from sam_engine.amg.bilinear import SUPPORT, Floats, Ints, geometry_for
from sam_engine.amg.measure import LogitFrame, MaskMeasures
from sam_engine.amg.packed_logits import KeptLogits, pack_logits
from sam_engine.compute.threads import map_in_threads
from sam_engine.ops.masks import stability_of_counts
from sam_engine.ops.rle import Runs, changes_to_runs


def measure_masks(
    logits: Tensor, frame: LogitFrame, threshold: float, stability_offset: float, min_stability: float = 0.0
) -> MaskMeasures:
    """Measure masks; see `sam_engine.amg.measure.measure_masks`, whose results these are.

    With ``min_stability``, those of masks that cannot reach it are not: their stability is only sure to be
    less. Blurred masks have the most open blocks, and are known for what they are before these are evaluated.
    """
    geometry = geometry_for(logits, frame)
    if geometry is None:
        return plain.measure_masks(logits, frame, threshold, stability_offset)
    cuts = np.array([threshold - stability_offset, threshold, threshold + stability_offset], dtype=np.float32)

    def measure(mask: Floats) -> Ints:
        return pixels.measure_mask(mask, geometry, cuts, np.float32(min_stability))

    rows = map_in_threads(measure, logits.numpy())
    table = torch.from_numpy(np.stack([np.zeros(7, dtype=np.int64), *rows])[1:])
    low, area, high = table[:, :3].int().unbind(dim=1)
    return MaskMeasures(
        stability_score=stability_of_counts(high, low), area=area, boxes_xyxy=table[:, 3:].contiguous()
    )


def keep_logits(logits: Tensor, frame: LogitFrame, threshold: float) -> KeptLogits:
    """Return what `masks_to_runs` needs of (N, h, w) logits, in as little memory as is known how to."""
    geometry = geometry_for(logits, frame)
    if geometry is None:
        return KeptLogits(list(logits))
    visible = int(geometry.y.support[-1]) + SUPPORT, int(geometry.x.support[-1]) + SUPPORT
    return KeptLogits(
        [pack_logits(mask, visible, threshold, pixels.margin_of(mask)) for mask in logits.numpy()]
    )


def masks_to_runs(
    logits: Tensor,
    frame: LogitFrame,
    threshold: float,
    boxes_xyxy: Tensor,
    origin: tuple[int, int],
    size: tuple[int, int],
) -> list[Runs]:
    """Return run lengths; see `sam_engine.amg.measure.masks_to_runs`, whose results these are."""
    geometry = geometry_for(logits, frame)
    if geometry is None:
        return plain.masks_to_runs(logits, frame, threshold, boxes_xyxy, origin, size)
    cuts = np.array([threshold], dtype=np.float32)

    def draw(mask_and_box: tuple[Floats, list[int]]) -> Runs:
        mask, (left, top, right, bottom) = mask_and_box
        changes = pixels.changes_of(pixels.draw_mask(mask, geometry, cuts, (left, top, right, bottom)))
        return changes_to_runs(changes, bottom - top + 1, (origin[0] + top, origin[1] + left), size)

    return map_in_threads(draw, zip(logits.numpy(), boxes_xyxy.tolist(), strict=True))
