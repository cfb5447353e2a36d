"""The masks of one encoded crop: decode its prompts in batches, filter, measure, drop the duplicates.

Legend: P prompts, M masks for each prompt, N masks, (4h, 4w) the low-resolution logits.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.config import AmgConfig
from sam_engine.errors import ImageError
from sam_engine.modeling.sam import ImageEmbedding, Segmenter
from sam_engine.ops.boxes import box_nms, is_box_near_crop_edge, uncrop_boxes_xyxy
from sam_engine.ops.logits import LogitFrame
from sam_engine.ops.low_res import keep_logits, measure_masks
from sam_engine.ops.mask_batch import Crop, MaskBatch
from sam_engine.ops.resize import ResizeLongestSide
from sam_engine.structures import ImageStatus

log = logging.getLogger(__name__)


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
class _Tally:
    """What became of the masks of a crop."""

    num_masks: int = 0
    num_non_finite: int = 0
    num_found: int = 0
    """Finite, and of a predicted IoU that is good enough."""

    def __add__(self, other: "_Tally") -> "_Tally":
        return _Tally(
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
    # Scaled in float64, as the original does; only the result is rounded.
    coords = ResizeLongestSide(model.image_size).apply_coords(encoded.points, encoded.crop.size)
    prompts = torch.from_numpy(coords).float().to(model.device)
    step, start, tally = config.points_per_batch, 0, _Tally()
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
            height, width = encoded.image_size
            raise ImageError(ImageStatus.OOM, f"no memory for its masks at {width} x {height} pixels")
    _report_non_finite(tally, encoded.crop)
    batch = MaskBatch.cat(candidates)
    return batch[box_nms(batch.boxes_xyxy, batch.predicted_iou, config.box_nms_thresh)], step


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
) -> tuple[MaskBatch, _Tally] | None:
    """Return the candidates of one batch of prompts, or None, and nothing held, if memory runs out."""
    try:
        return _decode_batch(model, encoded, prompts, start, config)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Here the error, and with it the frames that hold tensors, is gone.
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _decode_batch(
    model: Segmenter, encoded: EncodedCrop, prompts: Tensor, start: int, config: AmgConfig
) -> tuple[MaskBatch, _Tally]:
    """Decode the next ``points_per_batch`` prompts; return the masks that pass the filters."""
    chunk = prompts[start : start + config.points_per_batch]
    logits, predicted_iou = model.decode(
        encoded.embedding,
        point_coords=chunk[:, None],
        point_labels=torch.ones(len(chunk), 1, dtype=torch.int, device=chunk.device),
        iou_thresh=config.pred_iou_thresh if config.pred_iou_thresh > 0 else None,
    )
    index = torch.arange(start, start + len(chunk), device=chunk.device)
    index = index.repeat_interleave(logits.shape[1])  # (P * M,): the masks of a prompt stay together
    logits, predicted_iou = logits.flatten(0, 1), predicted_iou.flatten()
    keep = predicted_iou.isfinite()
    num_non_finite = int((~keep).sum())
    if config.pred_iou_thresh > 0:
        keep &= predicted_iou > config.pred_iou_thresh
    num_good = int(keep.sum())
    keep &= logits.sum(dim=(-2, -1)).isfinite()
    num_found = int(keep.sum())
    tally = _Tally(
        num_masks=len(keep), num_non_finite=num_non_finite + num_good - num_found, num_found=num_found
    )
    return _filter_measured(model, encoded, logits[keep], predicted_iou[keep], index[keep], config), tally


def _filter_measured(
    model: Segmenter,
    encoded: EncodedCrop,
    logits: Tensor,
    predicted_iou: Tensor,
    prompt_index: Tensor,
    config: AmgConfig,
) -> MaskBatch:
    """Return those of N masks of a crop that are stable, not too large, and not cut off by the crop."""
    crop, frame = encoded.crop, frame_of(model, encoded.crop)
    measures = measure_masks(logits, frame, model.mask_threshold, config.stability_score_offset)
    height, width = encoded.image_size
    keep = ~is_box_near_crop_edge(measures.boxes_xyxy, crop.box, (0, 0, width, height))
    # Comparisons of float32 tensors with Python floats happen in float32, as in the original.
    if config.stability_score_thresh > 0:
        keep &= measures.stability_score >= config.stability_score_thresh
    if config.max_mask_area_fraction < 1:
        keep &= measures.area < config.max_mask_area_fraction * height * width
    return MaskBatch(
        logits=keep_logits(logits[keep], frame, model.mask_threshold),
        predicted_iou=predicted_iou[keep],
        stability_score=measures.stability_score[keep],
        boxes_xyxy=uncrop_boxes_xyxy(measures.boxes_xyxy, crop.box)[keep],
        prompt_index=prompt_index[keep],
        crop_index=torch.full_like(prompt_index, encoded.index)[keep],
    )


def _report_non_finite(tally: _Tally, crop: Crop) -> None:
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
