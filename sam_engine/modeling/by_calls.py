"""Decoding by the calls of ``segment_anything``, whatever its decoder and prompt encoder have become.

The slow twin of the fast decoder: for training, for mask prompts, and where something was put into either.
"""

from typing import Any

from torch import Tensor, nn

from sam_engine.modeling.segmenter import ImageEmbedding


def decode_by_calls(
    mask_decoder: nn.Module,
    prompt_encoder: Any,
    embedding: ImageEmbedding,
    points: tuple[Tensor, Tensor] | None,
    boxes: Tensor | None,
    mask_input: Tensor | None,
    multimask_output: bool,
) -> tuple[Tensor, Tensor]:
    """Return logits and predicted IoU, as `Segmenter.decode` does, in the dtype of the embedding.

    The decoder is given the original's five keywords, and two more for images with skip features.
    """
    features = embedding.features
    sparse, dense = prompt_encoder(points=points, boxes=boxes, masks=mask_input)
    more: dict[str, Any] = {}
    if embedding.skip_features is not None:
        places = prompt_encoder.places(points, boxes)
        more = {"skip_features": embedding.skip_features, "places": places}
    logits, iou_predictions = mask_decoder(
        image_embeddings=features,
        image_pe=prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask_output,
        **more,
    )
    return logits.to(features.dtype), iou_predictions.to(features.dtype)
