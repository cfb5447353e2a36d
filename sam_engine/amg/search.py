"""The masks of one encoded crop: decode its prompts in batches, filter, measure, drop the duplicates.

Legend: P prompts, M masks for each prompt, N masks, (4h, 4w) the low-resolution logits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sam_engine.amg.filters import Tally, filter_measured, find_good, nms_within_crop, report_non_finite
from sam_engine.amg.mask_batch import Crop, EncodedCrop, MaskBatch
from sam_engine.amg.measure_cpu import keep_logits, masks_to_runs, measure_masks
from sam_engine.amg.prompting import decode_prompts, too_little_memory
from sam_engine.compute.device import is_out_of_memory
from sam_engine.config import AmgConfig, is_on
from sam_engine.modeling.segmenter import Segmenter
from sam_engine.ops.boxes import uncrop_boxes_xyxy
from sam_engine.ops.rle import Runs

DRAWN_AT_ONCE = 48
"""Masks whose low-resolution logits are unpacked together: 12 MiB with vit_*. Does not change the result."""


def search_crop(
    model: Segmenter, encoded: EncodedCrop, config: AmgConfig, points_per_batch: int
) -> tuple[MaskBatch, Tally, int]:
    """Find the masks of one crop that pass all filters and its NMS, by descending predicted IoU.

    Memory is bounded whatever passes the filters: until NMS, masks wait in packed form. Where it runs out all
    the same, half as many prompts are decoded at once.

    Returns:
        The masks, what became of all, and how many prompts at once did fit: ``points_per_batch``, or less.

    Raises:
        ImageError: The model's outputs are not finite, or not even one prompt fits into memory.
    """
    prompts = torch.from_numpy(encoded.crop.prompts())
    step, start, tally = points_per_batch, 0, Tally()
    candidates: list[MaskBatch] = []
    while start < len(prompts):
        found = _unless_out_of_memory(model, encoded, prompts[start : start + step], start, config)
        if found is not None:
            candidates.append(found[0])
            tally += found[1]
            start += step
        elif step > 1:
            step //= 2
        else:
            raise too_little_memory(encoded.crop)
    report_non_finite(tally, encoded.crop)
    return nms_within_crop(candidates, config.box_nms_thresh), tally, step


def draw_masks(model: Segmenter, batch: MaskBatch, crops: Sequence[Crop]) -> dict[int, Runs]:
    """Return the run lengths of an image's masks, by row, upscaling their logits again."""
    runs: dict[int, Runs] = {}
    for index in batch.crop_index.unique().tolist():
        rows, crop = (batch.crop_index == index).nonzero()[:, 0], crops[index]
        left, top = crop.box[:2]
        boxes = uncrop_boxes_xyxy(batch.boxes_xyxy[rows], (-left, -top))
        kept, origin, size = batch.logits[rows], (top, left), crop.image_size
        for start in range(0, len(rows), DRAWN_AT_ONCE):
            stop = min(start + DRAWN_AT_ONCE, len(rows))
            logits, threshold = kept.stack(start, stop), model.mask_threshold
            found = masks_to_runs(logits, crop.frame, threshold, boxes[start:stop], origin, size)
            runs.update(zip(rows[start:stop].tolist(), found, strict=True))
    return runs


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
    """Decode prompts (P, 2), of which the first is number ``start``; return masks that pass the filters."""
    logits, predicted_iou = decode_prompts(model, encoded.embedding, prompts, config)
    # (P * M,): the masks of a prompt stay together.
    index = torch.arange(start, start + len(prompts)).repeat_interleave(logits.shape[1])
    logits, predicted_iou = logits.flatten(0, 1), predicted_iou.flatten()
    keep, tally = find_good(predicted_iou, logits.sum(dim=(-2, -1)).isfinite(), config)
    logits = logits[keep]
    frame, threshold = encoded.crop.frame, model.mask_threshold
    min_stability = config.stability_score_thresh if is_on(config.stability_score_thresh) else 0.0
    measures = measure_masks(logits, frame, threshold, config.stability_score_offset, min_stability)
    batch = filter_measured(
        encoded.crop,
        config,
        measures=measures,
        predicted_iou=predicted_iou[keep],
        prompt_index=index[keep],
        keep_logits=lambda stable: keep_logits(logits[stable], frame, threshold),
    )
    return batch, tally.measured(measures)
