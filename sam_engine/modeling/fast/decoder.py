"""The mask decoder for many prompts on one image: what they share is computed once, what is unused never.

The same function as `MaskDecoder.forward` without mask prompts, in another order of operations: equal in real
arithmetic, in float32 up to rounding. For inference. Weights are read as they are; nothing derived from them
outlives a `PreparedImage`, so that there is nothing to invalidate when they change.

What is different:

- Keys, values and queries that layer 0 makes of the image are the same for all prompts.
- Later attention never projects the image's tokens, of which there are thousands, but absorbs the projections
  into the prompt's few tokens: ``q . (W k) = (W^T q) . k`` and ``sum(a W v) = W sum(a v)``.
- The image reads its prompt's tokens as attention weights times (value times output projection).
- The last attention runs only for the tokens whose output is used.
- Predicted IoU comes first. Only chosen prompts are upscaled, by matrix products over tokens.

N image tokens, T prompt tokens, H attention heads of D channels; otherwise the letters of this package.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sam_engine.modeling.fast.absorbed_projections import (
    absorbed_query,
    key_and_absorbed_value,
    project_read,
    split_heads,
    tokens_of_prompts,
    two_way_blocks,
)
from sam_engine.modeling.fast.cross_attention import ImageAttention, attend_image
from sam_engine.modeling.fast.prepared_image import PreparedImage
from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.prompt_maps import PromptPlaces
from sam_engine.modeling.transformer import Attention

CPU_IMAGES_BYTES = 32 * 2**20
"""Prompts' images held at once on a CPU, if there is a choice: what the cache behind the cores' holds."""
DEVICE_IMAGES_BYTES = 2**29
"""The same on an accelerator: 128 of vit_* in float32, 655 of tiny. What is made of them on the way takes
some six times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedPrompts:
    """P prompts after the transformer: their scores, and what masks can be made of."""

    iou_predictions: Tensor
    """(P, M), by the IoU token: `MaskDecoder.score_masks` says what the masks change, if they are made."""
    mask_tokens: Tensor
    """(P, M, C)."""
    image: Tensor
    """(P, N, C)."""
    first_mask: int
    """Number of the first mask token: 1 for the alternatives, 0 for the single mask."""
    places: PromptPlaces | None = None
    """Of the prompts, for decoders with prompt maps."""


def decode_prompts(
    decoder: MaskDecoder,
    prepared: PreparedImage,
    sparse_prompt_embeddings: Tensor,
    multimask_output: bool,
    images: Tensor | None = None,
    places: PromptPlaces | None = None,
) -> DecodedPrompts:
    """Run the transformer and the IoU head for P prompts without masks.

    Args:
        decoder: Whose weights to use.
        prepared: The image.
        sparse_prompt_embeddings: (P, tokens, C).
        multimask_output: Predict the alternatives instead of the single mask.
        images: (P or more, N, C) memory for the result's ``image``, to use again and again.
        places: Of the prompts, for decoders with prompt maps.
    """
    layers, transformer = two_way_blocks(decoder), decoder.transformer
    positions = tokens_of_prompts(decoder, sparse_prompt_embeddings)  # (P, T, C)
    tokens = layers[0].norm1(layers[0].self_attn(q=positions, k=positions, v=positions))
    attended = _attend_shared(layers[0].cross_attn_token_to_image, tokens + positions, prepared)
    if images is None:
        images = prepared.image.new_empty(len(positions), *prepared.image.shape)
    images = images[: len(positions)]
    maps, prior = decoder.image_maps(places, *prepared.size), None
    if maps is not None:
        prior = maps, decoder.map_to_image.weight.T
    for i, layer in enumerate(layers):
        tokens = layer.norm2(tokens + attended)
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        key, value = key_and_absorbed_value(layer.cross_attn_image_to_token, tokens + positions, tokens)
        if i + 1 < len(layers):
            following = layers[i + 1]
            q = tokens + positions
            tokens = following.norm1(tokens + following.self_attn(q=q, k=q, v=tokens))
            reader = following.cross_attn_token_to_image
        else:
            num_used = 1 + decoder.num_mask_tokens
            tokens, positions = (
                torch.cat([x[:, :1], x[:, 2:num_used]], dim=1) if multimask_output else x[:, :2]
                for x in (tokens, positions)
            )
            reader = transformer.final_attn_token_to_image
        given = ImageAttention(
            key=key,
            value=value,
            query=absorbed_query(reader, tokens + positions),
            norm=layer.norm4,
            attention=layer.cross_attn_image_to_token if i else None,
            prior=None if i else prior,
        )
        attended = project_read(reader, attend_image(prepared, given, images))
    tokens = transformer.norm_final_attn(tokens + attended)
    iou_predictions = decoder.iou_prediction_head(tokens[:, 0])
    return DecodedPrompts(
        iou_predictions=iou_predictions[:, 1:] if multimask_output else iou_predictions[:, :1],
        mask_tokens=tokens[:, 1:],
        image=images,
        first_mask=1 if multimask_output else 0,
        places=places if decoder.has_prompt_maps else None,
    )


def prompts_at_once(prepared: PreparedImage, num_prompts: int) -> int:
    """Return how many of so many prompts to decode together: on a CPU what fits its caches."""
    if prepared.image.device.type != "cpu":
        return num_prompts
    return min(num_prompts, max(torch.get_num_threads(), CPU_IMAGES_BYTES // prepared.image.nbytes))


def suited_prompts(size: tuple[int, int], num_channels: int, dtype: torch.dtype) -> int:
    """Return how many prompts suit an accelerator, by the memory of their images of (h, w) tokens."""
    return max(1, DEVICE_IMAGES_BYTES // (size[0] * size[1] * num_channels * dtype.itemsize))


def _attend_shared(attention: Attention, q: Tensor, prepared: PreparedImage) -> Tensor:
    """Let tokens (P, T, C) read the image that all share: one attention with P T queries."""
    query = split_heads(attention.q_proj(q.flatten(0, 1)), attention.num_heads).to(
        prepared.key.dtype
    )  # (H, P T, D)
    y = F.scaled_dot_product_attention(query[None], prepared.key[None], prepared.value[None])[0]
    z: Tensor = attention.out_proj(y.transpose(0, 1).flatten(1).to(q.dtype))
    return z.view(q.shape)
