"""The mask decoder for training: K prompts on each of B images, in few large matrix products.

The same function as `MaskDecoder.predict_masks`, in the order of operations of the fast decoder but kept
differentiable. Heads of 8 channels and maps of 16 leave the kernels for attention and convolution little to
do: with tiny on a CPU this takes half the time.
P = B * K prompts in order of their images, N image tokens, T prompt tokens, H heads of D of the C channels.
"""

import functools
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sam_engine.modeling.any_encoder import SkipFeatures
from sam_engine.modeling.fast.absorbed_projections import (
    absorbed_key,
    absorbed_query,
    key_and_absorbed_value,
    project_read,
    tokens_of_prompts,
    two_way_blocks,
)
from sam_engine.modeling.fast.prepared_image import pixels_of_tokens
from sam_engine.modeling.fast.upscaling import (
    count_by_loops,
    upscaling_layers,
    weight_of_pixels,
    weights_of_masks,
)
from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.mask_shapes import count_masks
from sam_engine.modeling.prompt_maps import PromptPlaces, pixel_centres
from sam_engine.modeling.transformer import Attention, TwoWayAttentionBlock


@functools.cache
def _has_numba() -> bool:
    """Return whether loops can be compiled; a machine that only trains may be bare."""
    return find_spec("numba") is not None


def decode_batch(
    decoder: MaskDecoder,
    features: Tensor,
    image_pe: Tensor,
    sparse_prompt_embeddings: Tensor,
    dense_prompt_embeddings: Tensor,
    skip_features: SkipFeatures | None,
    places: PromptPlaces,
) -> tuple[Tensor, Tensor]:
    """Predict all masks of the prompts on several images.

    Args:
        decoder: Whose weights are trained.
        features: (B, C, h, w).
        image_pe: (1, C, h, w).
        sparse_prompt_embeddings: (P, T, C).
        dense_prompt_embeddings: (P, C, h, w) of mask prompts, or (1, C, h, w) for all alike.
        skip_features: (B, C / 8, 4h, 4w) and (B, C / 4, 2h, 2w), or None.
        places: Of the prompts.

    Returns:
        Logits (P, 1 + M, 4h, 4w) and predicted IoU (P, 1 + M).
    """
    num_images, _, height, width = features.shape
    num_prompts = len(sparse_prompt_embeddings)
    image, dense = _tokens_of(features), _tokens_of(dense_prompt_embeddings)
    if len(dense) > 1:
        image = image.repeat_interleave(num_prompts // num_images, dim=0)
    image, pe = image + dense, _tokens_of(image_pe)[0]  # (B, N, C), from the first layer on (P, N, C); (N, C)
    device = features.device.type
    if torch.is_autocast_enabled(device):  # sums would be float32, and slow
        image, pe = (x.to(torch.get_autocast_dtype(device)) for x in (image, pe))
    positions = tokens_of_prompts(decoder, sparse_prompt_embeddings)
    tokens = positions
    prior = decoder.image_prior(places, height, width)
    for i, layer in enumerate(two_way_blocks(decoder)):
        if i == 0:
            tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
        else:
            q = tokens + positions
            tokens = tokens + layer.self_attn(q=q, k=q, v=tokens)
        tokens = layer.norm1(tokens)
        read = _read(layer.cross_attn_token_to_image, tokens + positions, image, pe)
        tokens = layer.norm2(tokens + read)
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        image = _write(layer, tokens, positions, image, pe, prior if i == 0 else None)
    last = decoder.transformer.final_attn_token_to_image
    tokens = decoder.transformer.norm_final_attn(tokens + _read(last, tokens + positions, image, pe))
    mask_tokens = tokens[:, 1 : 1 + decoder.num_mask_tokens]
    weights = weights_of_masks(decoder, mask_tokens)  # (P, M, C / 8)
    pixels = _upscale(decoder, image, skip_features)  # (P, N * 16, C / 8)
    logits = (weights @ pixels.transpose(1, 2)).unflatten(2, (height, width, 2, 2, 2, 2))
    logits = logits.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(num_prompts, -1, 4 * height, 4 * width)
    if decoder.has_prompt_maps:
        x, y = pixel_centres(4 * width, places.coords), pixel_centres(4 * height, places.coords)
        logits = logits + decoder.mask_prior(mask_tokens, slice(None), places, x, y)
    by_loops = device == "cpu" and logits.dtype == torch.float32 and _has_numba()
    count = count_by_loops if by_loops else count_masks
    iou = decoder.iou_prediction_head(tokens[:, 0])
    return logits, decoder.score_masks(iou, logits, places, count=count)


def _read(attention: Attention, q: Tensor, image: Tensor, pe: Tensor) -> Tensor:
    """Let tokens (P, T, C) read their image: (P, T, C)."""
    query = absorbed_query(attention, q)  # (P, H T, C)
    weights = _scores(query, image, pe).softmax(dim=-1).to(image.dtype)
    read = weights.reshape(len(image), -1, weights.shape[-1]) @ image
    return project_read(attention, read.view(query.shape))


def _write(
    layer: TwoWayAttentionBlock,
    tokens: Tensor,
    positions: Tensor,
    image: Tensor,
    pe: Tensor,
    prior: Tensor | None,
) -> Tensor:
    """Let each prompt's image read its tokens: (P, N, C)."""
    attention = layer.cross_attn_image_to_token
    key, value = key_and_absorbed_value(attention, tokens + positions, tokens)  # (P, H, T, D), (P, H T, C)
    absorbed, bias = absorbed_key(attention, key)  # (P, H, T, C), (P, H, T, 1)
    scores = _scores(absorbed.flatten(1, 2), image, pe).view(*key.shape[:3], -1) + bias.to(image.dtype)
    read = scores.softmax(dim=2).flatten(1, 2).transpose(1, 2) @ value
    if prior is not None:
        read = read + prior
    written: Tensor = layer.norm4(_add_shared(read, image))
    return written


def _scores(query: Tensor, image: Tensor, pe: Tensor) -> Tensor:
    """Return the products of (P, Q, C) with tokens of the image and of its positions: (P, Q, N)."""
    grouped = query.reshape(len(image), -1, query.shape[-1])
    return (grouped @ image.transpose(1, 2) + grouped @ pe.T).view(*query.shape[:2], -1)


def _upscale(decoder: MaskDecoder, image: Tensor, skip_features: SkipFeatures | None) -> Tensor:
    """Map (P, N, C) to pixels (P, N * 16, C / 8), 2 x 2 within 2 x 2."""
    first, norm, second = upscaling_layers(decoder)
    assert first.bias is not None
    assert second.bias is not None
    y = F.linear(image, weight_of_pixels(first).T, first.bias.repeat(4)).unflatten(2, (4, -1))
    if skip_features is not None:
        y = _add_shared(y, pixels_of_tokens(skip_features[1], levels=1).flatten(1, 2).to(y.dtype))
    y = F.gelu(F.layer_norm(y, y.shape[-1:], norm.weight, norm.bias, norm.eps))
    y = F.linear(y, weight_of_pixels(second).T, second.bias.repeat(4)).unflatten(3, (4, -1)).flatten(2, 3)
    if skip_features is not None:
        y = _add_shared(y, pixels_of_tokens(skip_features[0], levels=2).flatten(1, 2).to(y.dtype))
    return F.gelu(y).flatten(1, 2)


def _tokens_of(x: Tensor) -> Tensor:
    """Map (B, C, h, w) to (B, N, C)."""
    return x.flatten(2).transpose(1, 2)


def _add_shared(x: Tensor, shared: Tensor) -> Tensor:
    """Add (B, ...) to (P, ...), which B divides."""
    if len(shared) == len(x):
        return x + shared
    added: Tensor = _AddShared.apply(x, shared)  # type: ignore[no-untyped-call]
    return added


class _AddShared(torch.autograd.Function):
    """A broadcast sum whose gradient is a matrix product: torch's own is five times slower on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shared: Tensor) -> Tensor:
        """Add (B, ...) to (P, ...)."""
        ctx.dtype, ctx.num_shared = shared.dtype, len(shared)
        y: Tensor = (x.unflatten(0, (len(shared), -1)) + shared[:, None]).flatten(0, 1)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of both: as it is, and summed over the prompts of each image."""
        [gradient] = gradients
        flat = gradient.reshape(ctx.num_shared, len(gradient) // ctx.num_shared, -1)
        summed = flat.new_ones(ctx.num_shared, 1, flat.shape[1]) @ flat
        return gradient, summed.view(ctx.num_shared, *gradient.shape[1:]).to(ctx.dtype)
