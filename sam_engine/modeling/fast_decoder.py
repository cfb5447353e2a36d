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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from sam_engine.modeling.image_encoder import SkipFeatures
from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.prompt_maps import PromptPlaces
from sam_engine.modeling.transformer import Attention, TwoWayAttentionBlock

CPU_BLOCK_BYTES = 2**20
"""How much of the prompts' images is worked on at once on a CPU: what a core's cache holds. Larger temporary
memory is also handed back to the system and fetched anew each time, which costs more than the arithmetic."""
CPU_IMAGES_BYTES = 32 * 2**20
"""Prompts' images held at once on a CPU, if there is a choice: what the cache behind the cores' holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """All that the prompts on one image share. Valid as long as the weights that made it."""

    image: Tensor
    """(N, C) embedding plus no-mask embedding."""
    image_pe: Tensor
    """(N, C) positional encoding."""
    key: Tensor
    """(H, N, D), which layer 0's attention of tokens to image reads."""
    value: Tensor
    """(H, N, D), likewise."""
    query: Tensor
    """(H, D, N) of layer 0's attention of image to tokens, divided by the root of D."""
    size: tuple[int, int]
    """(h, w) of the embedding."""
    skip_8: Tensor | None
    """(h, w, 4, C / 4), added after the first upscaling: 2 x 2 pixels of each token."""
    skip_4: Tensor | None
    """(h, w, 16, C / 8), added after the second upscaling: 2 x 2 pixels of each of those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedPrompts:
    """P prompts after the transformer: their scores, and what masks can be made of."""

    iou_predictions: Tensor
    """(P, M)."""
    mask_tokens: Tensor
    """(P, M, C)."""
    image: Tensor
    """(P, N, C)."""
    first_mask: int
    """Number of the first mask token: 1 for the alternatives, 0 for the single mask."""
    places: PromptPlaces | None = None
    """Of the prompts, for decoders with prompt maps."""


def prepare_image(
    decoder: MaskDecoder,
    features: Tensor,
    image_pe: Tensor,
    no_mask_embedding: Tensor,
    skip_features: SkipFeatures | None = None,
    dtype: torch.dtype | None = None,
) -> PreparedImage:
    """Compute what all prompts on one image share.

    Args:
        decoder: Whose weights to use.
        features: (1, C, h, w).
        image_pe: (1, C, h, w).
        no_mask_embedding: (1, C), of prompts without a mask.
        skip_features: As `MaskDecoder.forward` takes them.
        dtype: What to keep the image in, and to compute in with it. None: the model's own. Prompts' tokens,
            their scores and the masks' logits are of the model's own in any case.
    """
    dtype = features.dtype if dtype is None else dtype
    image = features[0].flatten(1).T.contiguous() + no_mask_embedding  # (N, C)
    pe = image_pe[0].flatten(1).T.contiguous()
    first = two_way_blocks(decoder)[0]
    to_image, to_tokens = first.cross_attn_token_to_image, first.cross_attn_image_to_token
    query = _heads(to_tokens.q_proj(image + pe), to_tokens.num_heads)
    stride_4, stride_8 = (None, None) if skip_features is None else skip_features
    return PreparedImage(
        image=image.to(dtype),
        image_pe=pe.to(dtype),
        key=_heads(to_image.k_proj(image + pe), to_image.num_heads).contiguous().to(dtype),
        value=_heads(to_image.v_proj(image), to_image.num_heads).contiguous().to(dtype),
        query=(query / query.shape[-1] ** 0.5).transpose(1, 2).contiguous().to(dtype),
        size=(features.shape[2], features.shape[3]),
        skip_8=None if stride_8 is None else _pixels_of_tokens(stride_8[0], levels=1).to(dtype),
        skip_4=None if stride_4 is None else _pixels_of_tokens(stride_4[0], levels=2).to(dtype),
    )


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
    own_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    own_tokens = own_tokens.expand(len(sparse_prompt_embeddings), -1, -1)
    positions = torch.cat([own_tokens, sparse_prompt_embeddings], dim=1)  # (P, T, C)
    tokens = layers[0].norm1(layers[0].self_attn(q=positions, k=positions, v=positions))
    attended = _attend_shared(layers[0].cross_attn_token_to_image, tokens + positions, prepared)
    if images is None:
        images = prepared.image.new_empty(len(positions), *prepared.image.shape)
    images = images[: len(positions)]
    prior = decoder.image_prior(places, *prepared.size)
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
        query = absorbed_query(reader, tokens + positions)
        read = _exchange(
            prepared, layer, images, key, value, query, prior if i == 0 else None, is_shared=i == 0
        )
        attended = project_read(reader, read)
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
    """Return how many of so many prompts to decode together: on a CPU no more than fit its caches."""
    if prepared.image.device.type != "cpu":
        return num_prompts
    return min(num_prompts, max(1, CPU_IMAGES_BYTES // prepared.image.nbytes))


def _exchange(
    prepared: PreparedImage,
    layer: TwoWayAttentionBlock,
    images: Tensor,
    key: Tensor,
    value: Tensor,
    query: Tensor,
    prior: Tensor | None,
    *,
    is_shared: bool,
) -> Tensor:
    """Let each prompt's image read its tokens, and the next attention read the new image.

    Args:
        prepared: The image before any prompt.
        layer: Whose ``cross_attn_image_to_token`` and ``norm4`` apply.
        images: (P, N, C), which is overwritten with the new image.
        key: (P, H, T, D), from `key_and_absorbed_value`.
        value: (P, H T, C), likewise.
        query: (P, Q, C) of the next attention, from `absorbed_query`.
        prior: (P, N, C) added to the image, or None.
        is_shared: The image is still ``prepared.image`` for all prompts, whatever ``images`` holds.

    Returns:
        What each query read of the new image, (P, Q, C).
    """
    attention, num_tokens, dtype = layer.cross_attn_image_to_token, len(prepared.image), prepared.image.dtype
    norm = layer.norm4
    scale, shift = norm.weight.to(dtype), norm.bias.to(dtype)  # the statistics are float32's in any case
    own_dtype = query.dtype
    query, value = query.to(dtype), value.to(dtype)
    reads = torch.empty_like(query)
    bytes_per_token = prepared.image[0].nbytes
    for block in blocks_of(len(key), num_tokens * bytes_per_token, prepared.image.device):
        scores = []
        for strip in blocks_of(
            num_tokens, (block.stop - block.start) * bytes_per_token, prepared.image.device
        ):
            pe = prepared.image_pe[strip]
            if is_shared:
                weights = _weights_shared(prepared.query[:, :, strip], key[block])
                x = prepared.image[strip].expand(len(weights), -1, -1)
            else:
                x = images[block, strip]
                weights = _weights_absorbed(attention, key[block], x + pe)
            x = torch.baddbmm(x, weights.transpose(1, 2), value[block])
            if prior is not None:
                x = x + prior[block, strip].to(dtype)
            x = F.layer_norm(x, norm.normalized_shape, scale, shift, norm.eps)
            images[block, strip] = x
            scores.append(query[block] @ (x + pe).transpose(1, 2))  # (P, Q, N) in strips
        torch.bmm(torch.cat(scores, dim=2).softmax(dim=-1), images[block], out=reads[block])
    return reads.to(own_dtype)


def _attend_shared(attention: Attention, q: Tensor, prepared: PreparedImage) -> Tensor:
    """Let tokens (P, T, C) read the image that all share: one attention with P T queries."""
    query = _heads(attention.q_proj(q.flatten(0, 1)), attention.num_heads).to(
        prepared.key.dtype
    )  # (H, P T, D)
    y = F.scaled_dot_product_attention(query[None], prepared.key[None], prepared.value[None])[0]
    z: Tensor = attention.out_proj(y.transpose(0, 1).flatten(1).to(q.dtype))
    return z.view(q.shape)


def absorbed_query(attention: Attention, q: Tensor) -> Tensor:
    """Return (P, H T, C) whose products with image tokens are the scores of tokens (P, T, C).

    The key's bias is left out: it adds the same to all scores of a query, which softmax ignores.
    """
    query = _heads(attention.q_proj(q), attention.num_heads)  # (P, H, T, D)
    weight = by_head(attention, attention.k_proj.weight)  # (H, D, C)
    absorbed: Tensor = query @ weight / query.shape[-1] ** 0.5
    return absorbed.flatten(1, 2)


def project_read(attention: Attention, read: Tensor) -> Tensor:
    """Return the attention's output (P, T, C) from image tokens averaged by its weights, (P, H T, C)."""
    heads: Tensor = read.unflatten(1, (attention.num_heads, -1))  # (P, H, T, C)
    weight = by_head(attention, attention.v_proj.weight)  # (H, D, C)
    value = (heads @ weight.transpose(1, 2)).transpose(1, 2).flatten(2)  # (P, T, H D)
    y: Tensor = attention.out_proj(value + attention.v_proj.bias)
    return y


def key_and_absorbed_value(attention: Attention, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys (P, H, T, D), and values times output projection, (P, H T, C).

    A head's weights sum to 1, so that each value can bring its head's share of the output's bias.
    """
    key = _heads(attention.k_proj(k), attention.num_heads)
    value = _heads(attention.v_proj(v), attention.num_heads)  # (P, H, T, D)
    weight = by_head(attention, attention.out_proj.weight.T)  # (H, D, C)
    return key, (value @ weight + attention.out_proj.bias / attention.num_heads).flatten(1, 2)


def _weights_shared(query: Tensor, key: Tensor) -> Tensor:
    """Return how the image that all share attends to each prompt's tokens, (P, H T, N), summing to 1 over T.

    Args:
        query: (H, D, N), divided by the root of D.
        key: (P, H, T, D).
    """
    scores = key.to(query.dtype).transpose(0, 1).flatten(1, 2) @ query  # (H, P T, N)
    num_heads, num_prompts, num_tokens = key.shape[1], key.shape[0], key.shape[2]
    weights = scores.view(num_heads, num_prompts, num_tokens, -1).softmax(dim=2)
    return weights.transpose(0, 1).flatten(1, 2)


def _weights_absorbed(attention: Attention, key: Tensor, image_with_pe: Tensor) -> Tensor:
    """Return how each prompt's image (P, N, C) attends to its tokens, (P, H T, N), summing to 1 over T."""
    key = key / key.shape[-1] ** 0.5
    bias = key @ by_head(attention, attention.q_proj.bias[:, None])  # (P, H, T, 1)
    absorbed = key @ by_head(attention, attention.q_proj.weight)  # (P, H, T, C)
    bias, absorbed = (x.flatten(1, 2).to(image_with_pe.dtype) for x in (bias, absorbed))
    scores = torch.baddbmm(bias, absorbed, image_with_pe.transpose(1, 2))
    return scores.view(*key.shape[:3], -1).softmax(dim=2).flatten(1, 2)


def _pixels_of_tokens(x: Tensor, levels: int) -> Tensor:
    """Bring a map (C, 2^levels h, 2^levels w) to (h, w, 4^levels, C), in the order of its upscalings."""
    height, width = (side >> levels for side in x.shape[1:])
    x = x.view(len(x), height, *[2] * levels, width, *[2] * levels)
    pairs = [axis for i in range(levels) for axis in (2 + i, 3 + levels + i)]  # dy, dx of each level
    return x.permute(1, 2 + levels, *pairs, 0).flatten(2, -2).contiguous()


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """Map (..., K, H D) to (..., H, K, D)."""
    y: Tensor = x.unflatten(-1, (num_heads, -1))
    return y.transpose(-3, -2)


def by_head(attention: Attention, weight: Tensor) -> Tensor:
    """Map (H D, C) to (H, D, C)."""
    y: Tensor = weight.unflatten(0, (attention.num_heads, -1))
    return y


def two_way_blocks(decoder: MaskDecoder) -> list[TwoWayAttentionBlock]:
    """Return the layers of the decoder's transformer by their type."""
    return [cast(TwoWayAttentionBlock, layer) for layer in decoder.transformer.layers]


def blocks_of(num_things: int, bytes_per_thing: int, device: torch.device) -> Iterator[slice]:
    """Cut things into blocks that are worked on together: on a CPU as many as fit its caches, else all."""
    step = max(1, CPU_BLOCK_BYTES // bytes_per_thing if device.type == "cpu" else num_things)
    return (slice(start, min(start + step, num_things)) for start in range(0, num_things, step))
