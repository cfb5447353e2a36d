"""The masks of one encoded crop: decode its prompts in batches, filter, measure, drop the duplicates.

Legend: P prompts, M masks for each prompt, N masks, (4h, 4w) the low-resolution logits.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.amg.mask_batch import Crop, MaskBatch
from sam_engine.amg.measure import LogitFrame, MaskMeasures
from sam_engine.amg.measure_cpu import keep_logits, masks_to_runs, measure_masks
from sam_engine.amg.packed_logits import KeptLogits
from sam_engine.config import AmgConfig
from sam_engine.errors import ImageError
from sam_engine.modeling.segmenter import ImageEmbedding, Segmenter
from sam_engine.ops.boxes import box_area, box_nms, is_box_near_crop_edge, uncrop_boxes_xyxy
from sam_engine.ops.resize import ResizeLongestSide
from sam_engine.ops.rle import Runs
from sam_engine.structures import ImageStatus

log = logging.getLogger(__name__)

DRAWN_AT_ONCE = 48
"""Masks whose low-resolution logits are unpacked together: 12 MiB with vit_*. Does not change the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedCrop:
    """A crop, ready to be prompted."""

    crop: Crop
    index: int
    """Which crop of its image."""
    image_size: tuple[int, int]
    """(H, W) of that image."""
    embedding: ImageEmbedding
    points: NDArray[np.float64]
    """(P, 2) prompts as (x, y) in pixels of the crop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What became of the masks of a crop."""

    num_masks: int = 0
    num_non_finite: int = 0
    num_found: int = 0
    """Finite, and of a predicted IoU that is good enough."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            num_masks=self.num_masks + other.num_masks,
            num_non_finite=self.num_non_finite + other.num_non_finite,
            num_found=self.num_found + other.num_found,
        )


def search_crop(model: Segmenter, encoded: EncodedCrop, config: AmgConfig) -> tuple[MaskBatch, int]:
    """Find the masks of one crop that pass all filters and its NMS, by descending predicted IoU.

    Memory is bounded whatever passes the filters: until NMS, masks wait in packed form. Where it runs out all
    the same, half as many prompts are decoded at once.

    Returns:
        The masks, and how many prompts at once did fit: ``config.points_per_batch``, or less.

    Raises:
        ImageError: The model's outputs are not finite, or not even one prompt fits into memory.
    """
    prompts = torch.from_numpy(prompts_of(model, encoded))
    step, start, tally = config.points_per_batch, 0, Tally()
    candidates: list[MaskBatch] = []
    while start < len(prompts):
        found = _unless_out_of_memory(model, encoded, prompts, start, replace(config, points_per_batch=step))
        if found is not None:
            candidates.append(found[0])
            tally += found[1]
            start += step
        elif step > 1:
            step //= 2
        else:
            raise too_little_memory(encoded)
    report_non_finite(tally, encoded.crop)
    batch = MaskBatch.cat(candidates)
    return batch[box_nms(batch.boxes_xyxy, batch.predicted_iou, config.box_nms_thresh)], step


def nms_between_crops(batch: MaskBatch, crops: Sequence[Crop], iou_thresh: float) -> MaskBatch:
    """Return the masks of an image that the NMS between its crops leaves, from the smallest crops first."""
    if len(crops) == 1:
        return batch
    crop_boxes = torch.tensor([crop.box for crop in crops])
    scores = 1 / box_area(crop_boxes[batch.crop_index])
    return batch[box_nms(batch.boxes_xyxy, scores, iou_thresh)]


def draw_masks(
    model: Segmenter, batch: MaskBatch, crops: Sequence[Crop], size: tuple[int, int]
) -> dict[int, Runs]:
    """Return the run lengths of an image's masks, by row, upscaling their logits again."""
    runs: dict[int, Runs] = {}
    for index in batch.crop_index.unique().tolist():
        rows, crop = (batch.crop_index == index).nonzero()[:, 0], crops[index]
        left, top = crop.box[:2]
        boxes = uncrop_boxes_xyxy(batch.boxes_xyxy[rows], (-left, -top))
        frame, kept = frame_of(model, crop), batch.logits[rows]
        for start in range(0, len(rows), DRAWN_AT_ONCE):
            stop = min(start + DRAWN_AT_ONCE, len(rows))
            logits = kept.stack(start, stop)
            found = masks_to_runs(logits, frame, model.mask_threshold, boxes[start:stop], (top, left), size)
            runs.update(zip(rows[start:stop].tolist(), found, strict=True))
    return runs


def prompts_of(model: Segmenter, encoded: EncodedCrop) -> NDArray[np.float32]:
    """Return the (P, 2) prompts of a crop as (x, y) in pixels of the model's input."""
    # Scaled in float64, as the original does; only the result is rounded.
    coords = ResizeLongestSide(model.image_size).apply_coords(encoded.points, encoded.crop.size)
    return coords.astype(np.float32)


def too_little_memory(encoded: EncodedCrop) -> ImageError:
    """Return the error that not even one prompt fits."""
    height, width = encoded.image_size
    return ImageError(ImageStatus.OOM, f"no memory for its masks at {width} x {height} pixels")


def frame_of(model: Segmenter, crop: Crop) -> LogitFrame:
    """Return where the logits of a crop lie."""
    return LogitFrame(
        image_size=model.image_size,
        input_size=ResizeLongestSide(model.image_size).target_size(crop.size),
        original_size=crop.size,
    )


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Return whether an allocation failed, on the device or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # Where torch has no type for it: its CPU and MPS allocators, the CUDA driver, cuBLAS and cuDNN.
    texts = ("can't allocate memory", "not enough memory", "out of memory", "_STATUS_ALLOC_FAILED")
    return any(text in str(error) for text in texts)


def _unless_out_of_memory(
    model: Segmenter, encoded: EncodedCrop, prompts: Tensor, start: int, config: AmgConfig
) -> tuple[MaskBatch, Tally] | None:
    """Return the candidates of one batch of prompts, or None, and nothing held, if memory runs out."""
    try:
        return _decode_batch(model, encoded, prompts, start, config)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


def _decode_batch(
    model: Segmenter, encoded: EncodedCrop, prompts: Tensor, start: int, config: AmgConfig
) -> tuple[MaskBatch, Tally]:
    """Decode the next ``points_per_batch`` prompts; return the masks that pass the filters."""
    chunk = prompts[start : start + config.points_per_batch]
    logits, predicted_iou = model.decode(
        encoded.embedding,
        point_coords=chunk[:, None],
        point_labels=torch.ones(len(chunk), 1, dtype=torch.int, device=chunk.device),
        iou_thresh=config.pred_iou_thresh if config.pred_iou_thresh > 0 else None,
    )
    # (P * M,): the masks of a prompt stay together.
    index = torch.arange(start, start + len(chunk)).repeat_interleave(logits.shape[1])
    logits, predicted_iou = logits.flatten(0, 1), predicted_iou.flatten()
    keep, tally = find_good(predicted_iou, logits.sum(dim=(-2, -1)).isfinite(), config)
    logits = logits[keep]
    frame, threshold = frame_of(model, encoded.crop), model.mask_threshold
    batch = filter_measured(
        encoded,
        config,
        measures=measure_masks(
            logits, frame, threshold, config.stability_score_offset, config.stability_score_thresh
        ),
        predicted_iou=predicted_iou[keep],
        prompt_index=index[keep],
        keep_logits=lambda stable: keep_logits(logits[stable], frame, threshold),
    )
    return batch, tally


def find_good(predicted_iou: Tensor, are_finite: Tensor, config: AmgConfig) -> tuple[Tensor, Tally]:
    """Return which of N masks are finite and of a predicted IoU that is good enough, and count the others.

    Args:
        predicted_iou: (N,).
        are_finite: (N,) bool: their logits.
        config: With ``pred_iou_thresh``.
    """
    keep = predicted_iou.isfinite()
    num_non_finite = int((~keep).sum())
    if config.pred_iou_thresh > 0:
        keep &= predicted_iou > config.pred_iou_thresh
    num_good = int(keep.sum())
    keep &= are_finite
    num_found = int(keep.sum())
    tally = Tally(
        num_masks=len(keep), num_non_finite=num_non_finite + num_good - num_found, num_found=num_found
    )
    return keep, tally


def filter_measured(
    encoded: EncodedCrop,
    config: AmgConfig,
    *,
    measures: MaskMeasures,
    predicted_iou: Tensor,
    prompt_index: Tensor,
    keep_logits: Callable[[Tensor], KeptLogits],
) -> MaskBatch:
    """Return those of N masks of a crop that are stable, not too large, and not cut off by the crop.

    ``keep_logits`` is asked once, which logits to keep: (N,) bool. All else is on the host.
    """
    crop = encoded.crop
    height, width = encoded.image_size
    keep = ~is_box_near_crop_edge(measures.boxes_xyxy, crop.box, (0, 0, width, height))
    # Comparisons of float32 tensors with Python floats happen in float32, as in the original.
    if config.stability_score_thresh > 0:
        keep &= measures.stability_score >= config.stability_score_thresh
    if config.max_mask_area_fraction < 1:
        keep &= measures.area < config.max_mask_area_fraction * height * width
    return MaskBatch(
        logits=keep_logits(keep),
        predicted_iou=predicted_iou[keep],
        stability_score=measures.stability_score[keep],
        boxes_xyxy=uncrop_boxes_xyxy(measures.boxes_xyxy, crop.box)[keep],
        prompt_index=prompt_index[keep],
        crop_index=torch.full_like(prompt_index, encoded.index)[keep],
    )


def report_non_finite(tally: Tally, crop: Crop) -> None:
    """Raise `ImageError` if a crop gave no masks but some that are not finite; warn if it gave others too."""
    if tally.num_non_finite == 0:
        return
    message = (
        f"{tally.num_non_finite} of {tally.num_masks} masks of crop {list(crop.box)} "
        "are not finite in logits or score"
    )
    if tally.num_found == 0:
        raise ImageError(ImageStatus.MODEL_NONFINITE, message)
    log.warning("%s; they were dropped", message)
