"""From prompts that were decoded to masks: the second half of `decoder`.

Only chosen prompts are upscaled, by matrix products over tokens, in the precision of their image. The last
product, which makes logits of pixels, is of the model's own. Legend: as there.
"""

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.compute.threads import dealt, map_in_threads
from sam_engine.modeling.common import LayerNorm2d
from sam_engine.modeling.fast.decoder import DecodedPrompts
from sam_engine.modeling.fast.prepared_image import PreparedImage
from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.mask_shapes import MaskCounts, count_masks
from sam_engine.modeling.prompt_maps import pixel_centres

CPU_PRIORS_AT_ONCE = 8
"""Prompts whose maps a CPU makes together: few enough for its caches, enough to outweigh the calls."""


def upscale_masks(
    decoder: MaskDecoder,
    prepared: PreparedImage,
    decoded: DecodedPrompts,
    chosen: Tensor | None = None,
    seen: tuple[int, int] | None = None,
    skip_padding: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the logits (K, M, 4h, 4w) and the predicted IoU (K, M) of K of the decoded prompts.

    Args:
        decoder: Whose weights to use.
        prepared: What the prompts were decoded with.
        decoded: P prompts.
        chosen: (K,) indices of prompts. None: all, which saves a copy of their images.
        seen: (rows, columns) of tokens at the top left that scores are of. None: all.
        skip_padding: Make masks of those alone; the other logits are 0.
    """
    seen = seen or prepared.size
    rows, columns = seen if skip_padding else prepared.size
    tokens = decoded.mask_tokens if chosen is None else decoded.mask_tokens[chosen]
    weights = weights_of_masks(decoder, tokens, decoded.first_mask)  # (K, M, C / 8)
    height, width = prepared.size
    logits = weights.new_empty(*weights.shape[:2], 4 * height, 4 * width)
    logits[:, :, 4 * rows :] = 0
    logits[:, :, : 4 * rows, 4 * columns :] = 0
    images = decoded.image.unflatten(1, prepared.size)[:, :rows, :columns]
    if prepared.has_loops:
        _by_loops(decoder, prepared, images, chosen, weights, logits)
    else:
        _by_operations(decoder, prepared, images if chosen is None else images[chosen], weights, logits)
    scores = decoded.iou_predictions if chosen is None else decoded.iou_predictions[chosen]
    if decoded.places is not None:
        places = decoded.places if chosen is None else decoded.places[chosen]
        masks = slice(decoded.first_mask, decoded.first_mask + tokens.shape[1])
        x = pixel_centres(4 * width, places.coords)[: 4 * columns]
        y = pixel_centres(4 * height, places.coords)[: 4 * rows]

        def add_prior(prompts: slice) -> None:
            prior = decoder.mask_prior(tokens[prompts], masks, places[prompts], x, y)
            logits[prompts, :, : 4 * rows, : 4 * columns] += prior

        step = CPU_PRIORS_AT_ONCE if prepared.has_loops else max(1, len(tokens))
        map_in_threads(add_prior, [slice(i, i + step) for i in range(0, len(tokens), step)])
        count = count_by_loops if prepared.has_loops else count_masks
        counted = logits
        if (rows, columns) != seen:  # what is in the padding has no say, whether it was made or not
            counted = torch.zeros_like(logits)
            image = (..., slice(4 * seen[0]), slice(4 * seen[1]))
            counted[image] = logits[image]
        scores = decoder.score_masks(scores, counted, places, decoded.first_mask, count)
    return logits, scores


def _by_operations(
    decoder: MaskDecoder, prepared: PreparedImage, images: Tensor, weights: Tensor, logits: Tensor
) -> None:
    """Write the logits of all prompts together, with torch's operations on any device and in any precision.

    Args:
        decoder: Whose weights to use.
        prepared: The image.
        images: Tokens (K, rows, columns, C) at the top left of (h, w).
        weights: (K, M, C / 8).
        logits: (K, M, 4h, 4w), of which those of the tokens are written.
    """
    (first, norm, second), (rows, columns) = upscaling_layers(decoder), images.shape[1:3]
    dtype = images.dtype
    y = (images @ weight_of_pixels(first).to(dtype)).unflatten(3, (4, -1)).add_(first.bias)
    if prepared.skip_8 is not None:
        y.add_(prepared.skip_8[:rows, :columns])
    # (K, rows, columns, 4, C / 4)
    y = F.gelu(F.layer_norm(y, y.shape[-1:], norm.weight.to(dtype), norm.bias.to(dtype), norm.eps))
    y = (y @ weight_of_pixels(second).to(dtype)).unflatten(4, (4, -1)).add_(second.bias).flatten(3, 4)
    if prepared.skip_4 is not None:
        y.add_(prepared.skip_4[:rows, :columns])
    pixels = F.gelu(y).flatten(1, 3)  # (K, rows * columns * 16, C / 8)
    maps = (weights @ pixels.to(weights.dtype).transpose(1, 2)).unflatten(2, (rows, columns, 2, 2, 2, 2))
    # By token row, pixel rows within it, token column; the last axis are pairs of neighbouring pixels, made
    # complex numbers, so that a pair is copied as one.
    height, width = prepared.size
    pairs = logits.view(*logits.shape[:2], height, 2, 2, width, 2, 2)[:, :, :rows, :, :, :columns]
    torch.view_as_complex(pairs).copy_(torch.view_as_complex(maps).permute(0, 1, 2, 4, 6, 3, 5))


def _by_loops(
    decoder: MaskDecoder,
    prepared: PreparedImage,
    images: Tensor,
    chosen: Tensor | None,
    weights: Tensor,
    logits: Tensor,
) -> None:
    """Write the logits prompt by prompt in threads, in compiled loops; see `_by_operations`.

    Pixels are along memory. Images are those of all prompts (P, rows, columns, C), of which K are chosen.
    """
    from sam_engine.modeling.fast import cpu_loops as loops  # half a second, on first use

    (first, norm, second), (rows, columns) = upscaling_layers(decoder), images.shape[1:3]
    matrix_1 = weight_of_pixels(first).T.contiguous()
    matrix_2 = weight_of_pixels(second).T.contiguous().expand(4, -1, -1)
    bias_1, bias_2, scale, shift = (
        cast(Tensor, x).detach().numpy() for x in (first.bias, second.bias, norm.weight, norm.bias)
    )
    skip_8, skip_4 = (  # (4 or 16, channels, tokens)
        None if skip is None else skip[:rows, :columns].permute(2, 3, 0, 1).flatten(2).contiguous().numpy()
        for skip in (prepared.skip_8, prepared.skip_4)
    )
    strips, eps = prepared.strips(rows * columns), np.float32(norm.eps)
    numbers = range(len(images)) if chosen is None else chosen.tolist()

    def upscale_some(prompts: range) -> None:
        memory_1 = images.new_empty(len(matrix_1) * strips[0].stop)
        memory_2 = images.new_empty(4 * matrix_2.shape[1] * strips[0].stop)
        for k in prompts:
            tokens = images[numbers[k]].flatten(0, 1)
            own_weights, own_logits = weights[k].numpy(), logits[k].numpy()
            for strip in strips:
                length = strip.stop - strip.start
                y = memory_1[: len(matrix_1) * length].view(-1, length)
                z = memory_2[: 4 * matrix_2.shape[1] * length].view(4, -1, length)
                torch.mm(matrix_1, tokens[strip].T, out=y)
                y = y.view(4, -1, length)  # (4, C / 4, n)
                loops.norm_gelu(y.numpy(), bias_1, skip_8, strip.start, scale, shift, eps)
                torch.bmm(matrix_2, y, out=z)
                pixels = z.view(16, -1, length).numpy()  # (16, C / 8, n)
                loops.gelu_logits(pixels, bias_2, skip_4, strip.start, own_weights, columns, own_logits)

    map_in_threads(upscale_some, dealt(len(logits)))


def count_by_loops(logits: Tensor) -> MaskCounts:
    """Count the pixels of float32 masks on a CPU: `count_masks` by compiled loops, prompts in threads."""
    from sam_engine.modeling.fast import cpu_loops as loops

    prompts, masks, height, width = logits.shape
    counts = MaskCounts(
        columns=logits.new_empty(prompts, masks, width),
        rows=logits.new_empty(prompts, masks, height),
        sums=logits.new_empty(prompts, masks, 4),
        both=logits.new_empty(prompts, masks, masks),
    )

    def count_some(prompts: range) -> None:
        arrays = [x.numpy() for x in (logits.detach(), counts.columns, counts.rows, counts.sums, counts.both)]
        for k in prompts:
            loops.count_masks(*(array[k] for array in arrays))

    map_in_threads(count_some, dealt(prompts))
    return counts


def weights_of_masks(decoder: MaskDecoder, mask_tokens: Tensor, first_mask: int = 0) -> Tensor:
    """Return the weights (P, M, C / 8) of pixels in the logits of masks.

    Args:
        decoder: Whose weights to use.
        mask_tokens: (P, M, C), after the transformer.
        first_mask: Number of the first of them.
    """
    mlps = list(decoder.output_hypernetworks_mlps)[first_mask:]
    return torch.stack([mlps[i](mask_tokens[:, i]) for i in range(mask_tokens.shape[1])], dim=1)


def upscaling_layers(decoder: MaskDecoder) -> tuple[nn.ConvTranspose2d, LayerNorm2d, nn.ConvTranspose2d]:
    """Return the upscaling's layers that have weights, by their type; the others are GELU."""
    first, norm, _, second, _ = decoder.output_upscaling
    return cast(nn.ConvTranspose2d, first), cast(LayerNorm2d, norm), cast(nn.ConvTranspose2d, second)


def weight_of_pixels(upscaling: nn.ConvTranspose2d) -> Tensor:
    """Return a 2 x 2 upscaling of stride 2 as a matrix (C, 4 C'), its pixels in reading order."""
    return upscaling.weight.permute(0, 2, 3, 1).flatten(1)
