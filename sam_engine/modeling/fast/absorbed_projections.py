"""Attention between a prompt's few tokens and thousands of the image, whose projections the few absorb.

``q . (W k) = (W^T q) . k`` and ``sum(a W v) = W sum(a v)``: the image's tokens are never projected.

P prompts of T tokens, H attention heads of D channels, C channels.
"""

from typing import cast

import torch
from torch import Tensor

from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.transformer import Attention, TwoWayAttentionBlock


def absorbed_query(attention: Attention, q: Tensor) -> Tensor:
    """Return (P, H T, C) whose products with image tokens are the scores of tokens (P, T, C).

    The key's bias is left out: it adds the same to all scores of a query, which softmax ignores.
    """
    query = split_heads(attention.q_proj(q), attention.num_heads)  # (P, H, T, D)
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
    key = split_heads(attention.k_proj(k), attention.num_heads)
    value = split_heads(attention.v_proj(v), attention.num_heads)  # (P, H, T, D)
    weight = by_head(attention, attention.out_proj.weight.T)  # (H, D, C)
    return key, (value @ weight + attention.out_proj.bias / attention.num_heads).flatten(1, 2)


def absorbed_key(attention: Attention, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys (P, H, T, C), whose products with image tokens plus (P, H, T, 1) are the image's scores.

    Args:
        attention: In which the image asks.
        key: (P, H, T, D), from `key_and_absorbed_value`.
    """
    key = key / key.shape[-1] ** 0.5
    bias = key @ by_head(attention, attention.q_proj.bias[:, None])
    return key @ by_head(attention, attention.q_proj.weight), bias


def tokens_of_prompts(decoder: MaskDecoder, sparse_prompt_embeddings: Tensor) -> Tensor:
    """Return the decoder's own tokens and then the prompts', (P, T, C): their start, and their positions."""
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    return torch.cat([own.expand(len(sparse_prompt_embeddings), -1, -1), sparse_prompt_embeddings], dim=1)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
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
