"""From prompts that were decoded to masks: the second half of `fast_decoder`.

Only chosen prompts are upscaled, by matrix products over tokens, in the precision of their image. The last
product, which makes logits of pixels, is of the model's own. Legend: as there.
"""

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.modeling.fast_decoder import DecodedPrompts, PreparedImage, blocks_of
from sam_engine.modeling.layers import LayerNorm2d
from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.prompt_maps import NUM_MAPS, pixel_centres


def upscale_masks(
    decoder: MaskDecoder,
    prepared: PreparedImage,
    decoded: DecodedPrompts,
    chosen: Tensor | None = None,
    valid: tuple[int, int] | None = None,
) -> Tensor:
    """Return the logits (K, M, 4h, 4w) of K of the decoded prompts.

    Args:
        decoder: Whose weights to use.
        prepared: What the prompts were decoded with.
        decoded: P prompts.
        chosen: (K,) indices of prompts. None: all, which saves a copy of their images.
        valid: (rows, columns) of tokens at the top left to make masks of; the other logits are 0. None: all.
    """
    rows, columns = valid or prepared.size
    tokens = decoded.mask_tokens if chosen is None else decoded.mask_tokens[chosen]
    mlps = list(decoder.output_hypernetworks_mlps)[decoded.first_mask :]
    weights = torch.stack([mlps[i](tokens[:, i]) for i in range(tokens.shape[1])], dim=1)  # (K, M, C / 8)
    height, width = prepared.size
    logits = weights.new_zeros(*weights.shape[:2], 4 * height, 4 * width)
    # By token row, pixel rows within it, token column; the last axis are pairs of neighbouring pixels.
    pairs = logits.view(*weights.shape[:2], height, 2, 2, width, 2, 2)[:, :, :rows, :, :, :columns]
    bytes_per_row = 2 * prepared.image[: prepared.size[1]].nbytes  # a token's pixels: twice its channels
    upscale = _upscaling_of(decoder, prepared)
    for block, strip in _blocks_and_strips(len(tokens), rows, bytes_per_row, logits.device):
        prompts = block if chosen is None else chosen[block]
        image = decoded.image.unflatten(1, prepared.size)[prompts, strip, :columns]
        pixels = upscale(image, strip)  # (K, tokens * 16, C / 8)
        maps = (weights[block] @ pixels.to(weights.dtype).transpose(1, 2)).unflatten(
            2, (-1, columns, 2, 2, 2, 2)
        )
        # Complex numbers, so that the pair is copied as one.
        target = torch.view_as_complex(pairs[block, :, strip])  # (K, M, rows, 2, 2, columns, 2)
        target.copy_(torch.view_as_complex(maps).permute(0, 1, 2, 4, 6, 3, 5))
    if decoded.places is not None:
        places = decoded.places if chosen is None else decoded.places[chosen]
        masks = slice(decoded.first_mask, decoded.first_mask + tokens.shape[1])
        x = pixel_centres(4 * width, places.coords)[: 4 * columns]
        y = pixel_centres(4 * height, places.coords)[: 4 * rows]
        bytes_of_maps = NUM_MAPS * logits[0, 0].nbytes if len(logits) else 1
        for block in blocks_of(len(tokens), bytes_of_maps, logits.device):
            prior = decoder.mask_prior(tokens[block], masks, places[block], x, y)
            logits[block, :, : 4 * rows, : 4 * columns] += prior
    return logits


def _upscaling_of(decoder: MaskDecoder, prepared: PreparedImage) -> Callable[[Tensor, slice], Tensor]:
    """Return the map of tokens (K, rows, columns, C) to pixels (K, rows * columns * 16, C / 8).

    Its second argument says which rows of the image's tokens they are. Pixels are 2 x 2 within 2 x 2.
    """
    first, norm, activation_1, second, activation_2 = decoder.output_upscaling
    first, norm = cast(nn.ConvTranspose2d, first), cast(LayerNorm2d, norm)
    second = cast(nn.ConvTranspose2d, second)
    dtype = prepared.image.dtype
    weight_1, weight_2 = weight_of_pixels(first).to(dtype), weight_of_pixels(second).to(dtype)
    scale, shift = norm.weight.to(dtype), norm.bias.to(dtype)

    def upscale(image: Tensor, strip: slice) -> Tensor:
        columns = image.shape[2]
        y = (image @ weight_1).unflatten(3, (4, -1)).add_(first.bias)  # (K, rows, columns, 4, C / 4)
        if prepared.skip_8 is not None:
            y.add_(prepared.skip_8[strip, :columns])
        y = activation_1(F.layer_norm(y, y.shape[-1:], scale, shift, norm.eps))
        y = (y @ weight_2).unflatten(4, (4, -1)).add_(second.bias).flatten(3, 4)
        if prepared.skip_4 is not None:
            y.add_(prepared.skip_4[strip, :columns])
        pixels: Tensor = activation_2(y).flatten(1, 3)
        return pixels

    return upscale


def weight_of_pixels(upscaling: nn.ConvTranspose2d) -> Tensor:
    """Return a 2 x 2 upscaling of stride 2 as a matrix (C, 4 C'), its pixels in reading order."""
    return upscaling.weight.permute(0, 2, 3, 1).flatten(1)


def _blocks_and_strips(
    num_prompts: int, num_rows: int, bytes_per_row: int, device: torch.device
) -> Iterator[tuple[slice, slice]]:
    """Cut prompts into blocks, and where one is too large by itself, its rows of tokens into strips."""
    for block in blocks_of(num_prompts, num_rows * bytes_per_row, device):
        for strip in blocks_of(num_rows, (block.stop - block.start) * bytes_per_row, device):
            yield block, strip
