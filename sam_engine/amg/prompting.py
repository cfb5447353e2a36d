"""How the prompts of a crop are put to the model."""

import torch
from torch import Tensor

from sam_engine.amg.mask_batch import Crop
from sam_engine.config import AmgConfig, is_on
from sam_engine.errors import ImageError
from sam_engine.modeling.segmenter import ImageEmbedding, Segmenter
from sam_engine.structures import ImageStatus


def decode_prompts(
    model: Segmenter, embedding: ImageEmbedding, prompts: Tensor, config: AmgConfig
) -> tuple[Tensor, Tensor]:
    """Return logits (P, M, 4h, 4w) and predicted IoU (P, M): three masks of a point, one of a box.

    Args:
        model: To ask.
        embedding: Of the crop.
        prompts: (P, 2) foreground points or (P, 4) boxes in pixels of the model's input, on its device.
        config: Says which masks are not wanted anyway; their logits may be 0.
    """
    iou_thresh = config.pred_iou_thresh if is_on(config.pred_iou_thresh) else None
    if prompts.shape[1] == 4:
        return model.decode(embedding, boxes=prompts, multimask_output=False, iou_thresh=iou_thresh)
    return model.decode(
        embedding,
        point_coords=prompts[:, None],
        point_labels=torch.ones(len(prompts), 1, dtype=torch.int, device=prompts.device),
        iou_thresh=iou_thresh,
    )


def too_little_memory(crop: Crop) -> ImageError:
    """Return the error that not even one prompt fits."""
    height, width = crop.image_size
    return ImageError(ImageStatus.OOM, f"no memory for its masks at {width} x {height} pixels")
