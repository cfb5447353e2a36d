"""Each prompt's image reads its prompt's tokens and is read in turn: nearly all the work of decoding.

In two ways that compute the same. torch's operations take all prompts together, on any device and in any
precision. On a CPU, where memory is the limit and not arithmetic, compiled loops take prompt by prompt, each
in one thread, and a strip of its image at a time: what lies between two products stays in the core's cache.

P prompts of T tokens, N image tokens, H attention heads of D channels, C channels; Q queries.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.compute.threads import dealt, map_in_threads
from sam_engine.modeling.fast.absorbed_projections import absorbed_key
from sam_engine.modeling.fast.prepared_image import PreparedImage
from sam_engine.modeling.transformer import Attention


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAttention:
    """The prompts' side of one layer: what their images attend to, and what attends to these."""

    key: Tensor
    """(P, H, T, D) of the prompts' tokens, from `key_and_absorbed_value`."""
    value: Tensor
    """(P, H T, C), likewise."""
    query: Tensor
    """(P, Q, C) of the next attention to the image, from `absorbed_query`."""
    norm: nn.LayerNorm
    """Of the new image."""
    attention: Attention | None
    """How images attend. None: all are still ``PreparedImage.image``, which has its queries ready."""
    prior: tuple[Tensor, Tensor] | None
    """Maps (P, K, N) and their weights (K, C), whose product is added to what the image reads."""


def attend_image(prepared: PreparedImage, given: ImageAttention, images: Tensor) -> Tensor:
    """Make each prompt's new image, and read it.

    Args:
        prepared: The image before any prompt.
        given: The prompts' side.
        images: (P, N, C) before, if they differ already; overwritten with the new ones.

    Returns:
        What each query read of the new image, (P, Q, C).
    """
    return (
        _by_loops(prepared, given, images) if prepared.has_loops else _by_operations(prepared, given, images)
    )


def _by_operations(prepared: PreparedImage, given: ImageAttention, images: Tensor) -> Tensor:
    """Compute `attend_image` for all prompts together."""
    dtype, key = images.dtype, given.key
    if given.attention is None:
        before = prepared.image
        scores = key.to(dtype).transpose(0, 1).flatten(1, 2) @ prepared.query  # (H, P T, N)
        weights = scores.unflatten(1, (len(key), key.shape[2])).softmax(dim=2).transpose(0, 1)
    else:
        before = images
        absorbed, bias = (x.flatten(1, 2).to(dtype) for x in absorbed_key(given.attention, key))
        scores = torch.baddbmm(bias, absorbed, (images + prepared.image_pe).transpose(1, 2))  # (P, H T, N)
        weights = scores.unflatten(1, key.shape[1:3]).softmax(dim=2)
    x = torch.baddbmm(before.expand_as(images), weights.flatten(1, 2).transpose(1, 2), given.value.to(dtype))
    if given.prior is not None:
        maps, map_weights = given.prior
        x = x + (maps.transpose(1, 2) @ map_weights).to(dtype)
    norm = given.norm  # its statistics are float32's in any case
    images.copy_(F.layer_norm(x, norm.normalized_shape, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps))
    scores = given.query.to(dtype) @ (images + prepared.image_pe).transpose(1, 2)
    return (scores.softmax(dim=-1) @ images).to(given.query.dtype)


def _by_loops(prepared: PreparedImage, given: ImageAttention, images: Tensor) -> Tensor:
    """Compute `attend_image` prompt by prompt and strip by strip, in threads."""
    from sam_engine.modeling.fast import cpu_loops as loops  # half a second, which training is spared

    norm, attention = given.norm, given.attention
    scale, shift = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    if attention is None:
        keys, bias = given.key, given.key.new_zeros(given.key.shape[:3])
    else:
        absorbed, offsets = absorbed_key(attention, given.key)
        keys, bias = absorbed.flatten(1, 2), offsets[..., 0]
    prior, eps = given.prior, np.float32(norm.eps)
    reads = torch.empty_like(given.query)

    def attend_some(prompts: range) -> None:
        strips = _strips_of(prepared, given)
        for p in prompts:
            image, own_bias, value, query = images[p], bias[p].numpy(), given.value[p], given.query[p]
            before, after = (prepared.image if attention is None else image).numpy(), image.numpy()
            top, total = query.new_full((len(query),), -torch.inf), query.new_zeros(len(query))
            read = torch.zeros_like(query)
            progress = top.numpy(), total.numpy(), read.numpy()
            for strip, tokens in zip(strips, image.split(len(strips[0].x)), strict=True):
                if attention is None:
                    torch.bmm(keys[p], strip.queries, out=strip.weights_by_head)
                else:
                    torch.add(tokens, strip.pe, out=strip.x)
                    torch.mm(keys[p], strip.x_transposed, out=strip.weights)
                loops.softmax_of_tokens(strip.weights_array, own_bias)
                torch.mm(strip.weights_transposed, value, out=strip.x)
                if prior is not None:
                    maps, map_weights = prior
                    strip.x.addmm_(maps[p, :, strip.start : strip.start + len(strip.x)].T, map_weights)
                loops.add_norm(strip.x_array, before, scale, shift, eps, strip.all_pe, after, strip.start)
                torch.mm(query, strip.x_transposed, out=strip.scores)
                loops.softmax_of_strip(strip.scores_array, *progress)
                read.addmm_(strip.scores, tokens)
            torch.div(read, total[:, None], out=reads[p])

    map_in_threads(attend_some, dealt(len(images)))
    return reads


@dataclass(frozen=True, slots=True, kw_only=True)
class _Strip:
    """n of the image's tokens and memory of one thread for them, with all views that are needed of it.

    Threads wait for each other at every call from Python, be it ever so small.
    """

    start: int
    """The first token."""
    pe: Tensor
    """(n, C) of the positional encoding."""
    all_pe: NDArray[np.float32]
    """(N, C)."""
    queries: Tensor
    """(H, D, n) of `PreparedImage.query`."""
    x: Tensor
    """(n, C)."""
    weights: Tensor
    """(H T, n)."""
    scores: Tensor
    """(Q, n)."""
    x_transposed: Tensor
    x_array: NDArray[np.float32]
    weights_by_head: Tensor
    weights_transposed: Tensor
    weights_array: NDArray[np.float32]
    scores_array: NDArray[np.float32]


def _strips_of(prepared: PreparedImage, given: ImageAttention) -> list[_Strip]:
    """Return strips of the whole image, all with the same memory."""
    _, num_heads, num_keys, _ = given.key.shape
    num_tokens, num_channels = prepared.image.shape
    slices = prepared.strips(num_tokens)
    longest = slices[0].stop
    x = prepared.image.new_empty(longest, num_channels)
    weights = prepared.image.new_empty(num_heads * num_keys * longest)
    scores = prepared.image.new_empty(given.query.shape[1] * longest)
    strips = []
    for strip in slices:
        length = strip.stop - strip.start
        own_x = x[:length]
        own_weights = weights[: num_heads * num_keys * length].view(-1, length)
        own_scores = scores[: given.query.shape[1] * length].view(-1, length)
        own_by_head = own_weights.view(num_heads, num_keys, length)
        strips.append(
            _Strip(
                start=strip.start,
                pe=prepared.image_pe[strip],
                all_pe=prepared.image_pe.numpy(),
                queries=prepared.query[:, :, strip],
                x=own_x,
                weights=own_weights,
                scores=own_scores,
                x_transposed=own_x.T,
                x_array=own_x.numpy(),
                weights_by_head=own_by_head,
                weights_transposed=own_weights.T,
                weights_array=own_by_head.numpy(),
                scores_array=own_scores.numpy(),
            )
        )
    return strips
