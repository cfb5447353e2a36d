"""The decoder as two graphs: what depends on the image alone, once an image, and the rest for each prompt.

The same function as `DecoderGraph`, in the order of operations of `fast.decoder`, but nothing is written into
memory. A mask of a previous round is added to the image: with one, both graphs run. N image tokens, T prompt
tokens, H attention heads of D channels; C channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.modeling.any_encoder import has_skip_features
from sam_engine.modeling.attention import attention
from sam_engine.modeling.fast.absorbed_projections import (
    absorbed_key,
    absorbed_query,
    key_and_absorbed_value,
    project_read,
    split_heads,
    tokens_of_prompts,
    two_way_blocks,
)
from sam_engine.modeling.fast.prepared_image import pixels_of_tokens
from sam_engine.modeling.fast.upscaling import upscaling_layers, weight_of_pixels, weights_of_masks
from sam_engine.modeling.onnx import embed_masks, embed_points
from sam_engine.modeling.onnx_graphs import SKIPS, DecoderGraph
from sam_engine.modeling.prompt_maps import PromptPlaces, pixel_centres
from sam_engine.modeling.sam import Sam

SHARED = ("image_tokens", "image_keys", "image_values", "image_queries")
"""What the image's graph gives and the prompts' takes, besides `SHARED_SKIPS`."""
SHARED_SKIPS = ("image_skip_4", "image_skip_8")
"""Skip features by token, (1, N, 16, C/8) and (1, N, 4, C/4): see `pixels_of_tokens`."""


class ImageGraph(nn.Module):
    """What all prompts on an image share, of its embedding; with a mask, all that refine this one."""

    def __init__(self, sam: Sam) -> None:
        """Wrap a model."""
        super().__init__()
        self.sam = sam
        has_skips = has_skip_features(sam.image_encoder)
        self.input_names = ("image_embeddings", "mask_input", "has_mask_input", *(SKIPS if has_skips else ()))
        self.output_names = (*SHARED, *(SHARED_SKIPS if has_skips else ()))
        self.dynamic_axes: dict[str, dict[int, str]] = {}

    def example(self) -> dict[str, Tensor]:
        """Return inputs to trace with."""
        decoder = DecoderGraph(self.sam).example()
        return {name: decoder[name] for name in self.input_names}

    @torch.no_grad()
    def forward(
        self,
        image_embeddings: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        skip_4: Tensor | None = None,
        skip_8: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Map (1, C, h, w) to tokens (1, N, C), and keys, values and queries of layer 0, (1, H, N, D).

        With skip features, `SHARED_SKIPS` of them follow. `DecoderGraph.forward` says what the inputs are.
        """
        first = two_way_blocks(self.sam.mask_decoder)[0]
        to_image, to_tokens = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        image = image_embeddings + embed_masks(self.sam, mask_input, has_mask_input)
        image = image.flatten(2).transpose(1, 2)
        placed = image + _positions(self.sam)
        query = split_heads(to_tokens.q_proj(placed), to_tokens.num_heads)
        skips = () if skip_4 is None or skip_8 is None else ((skip_4, 2), (skip_8, 1))
        return (
            image,
            split_heads(to_image.k_proj(placed), to_image.num_heads),
            split_heads(to_image.v_proj(image), to_image.num_heads),
            query / query.shape[-1] ** 0.5,
            *(pixels_of_tokens(skip, levels).flatten(1, 2) for skip, levels in skips),
        )


class PromptGraph(nn.Module):
    """One prompt of points and boxes, on an image that `ImageGraph` prepared."""

    output_names = ("iou_predictions", "low_res_masks")

    def __init__(self, sam: Sam) -> None:
        """Wrap a model."""
        super().__init__()
        self.sam = sam
        skips = SHARED_SKIPS if has_skip_features(sam.image_encoder) else ()
        self.input_names = (*SHARED, "point_coords", "point_labels", *skips)
        self.dynamic_axes = {name: {1: "num_points"} for name in ("point_coords", "point_labels")}

    def example(self) -> dict[str, Tensor]:
        """Return inputs to trace with."""
        image = ImageGraph(self.sam)
        values = dict(zip(image.output_names, image(**image.example()), strict=True))
        values |= DecoderGraph(self.sam).example()
        return {name: values[name] for name in self.input_names}

    @torch.no_grad()
    def forward(
        self,
        image_tokens: Tensor,
        image_keys: Tensor,
        image_values: Tensor,
        image_queries: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        image_skip_4: Tensor | None = None,
        image_skip_8: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return scores (1, M) and logits (1, M, 4h, 4w) of all mask tokens; see `DecoderGraph.forward`."""
        decoder, size = self.sam.mask_decoder, self.sam.prompt_encoder.image_embedding_size
        blocks, pe = two_way_blocks(decoder), _positions(self.sam)
        places = PromptPlaces(coords=(point_coords + 0.5) / self.sam.image_size, labels=point_labels)
        prior = decoder.image_prior(places, *size)
        positions = tokens_of_prompts(decoder, embed_points(self.sam, point_coords, point_labels))

        tokens = blocks[0].norm1(blocks[0].self_attn(q=positions, k=positions, v=positions))
        reader, image = blocks[0].cross_attn_token_to_image, image_tokens
        query = split_heads(reader.q_proj(tokens + positions), reader.num_heads)
        attended = reader.out_proj(attention(query, image_keys, image_values).transpose(1, 2).flatten(2))
        for i, block in enumerate(blocks):
            tokens = block.norm2(tokens + attended)
            tokens = block.norm3(tokens + block.mlp(tokens))
            asker = block.cross_attn_image_to_token
            key, value = key_and_absorbed_value(asker, tokens + positions, tokens)  # value (1, H T, C)
            if i == 0:
                weights = (image_queries @ key.transpose(2, 3)).softmax(dim=3).transpose(1, 2)  # (1, N, H, T)
            else:
                absorbed, bias = absorbed_key(asker, key)
                scores = (image + pe) @ absorbed.flatten(1, 2).transpose(1, 2) + bias.flatten(1)[:, None]
                weights = scores.unflatten(2, (asker.num_heads, -1)).softmax(dim=3)
            read = weights.flatten(2) @ value
            image = block.norm4(image + (read if prior is None or i else read + prior))
            if i + 1 < len(blocks):
                following = blocks[i + 1]
                q = tokens + positions
                tokens = following.norm1(tokens + following.self_attn(q=q, k=q, v=tokens))
                reader = following.cross_attn_token_to_image
            else:
                reader = decoder.transformer.final_attn_token_to_image
            scores = absorbed_query(reader, tokens + positions) @ (image + pe).transpose(1, 2)  # (1, H T, N)
            attended = project_read(reader, scores.softmax(dim=-1) @ image)
        tokens = decoder.transformer.norm_final_attn(tokens + attended)
        mask_tokens = tokens[:, 1 : 1 + decoder.num_mask_tokens]

        weights = weights_of_masks(decoder, mask_tokens)
        masks = self._upscale(image, weights, image_skip_4, image_skip_8)
        if prior is not None:
            x, y = (pixel_centres(4 * side, places.coords) for side in reversed(size))
            masks = masks + decoder.mask_prior(mask_tokens, slice(None), places, x, y)
        return decoder.score_masks(decoder.iou_prediction_head(tokens[:, 0]), masks, places), masks

    def _upscale(
        self, image: Tensor, weights: Tensor, skip_4: Tensor | None, skip_8: Tensor | None
    ) -> Tensor:
        """Return logits (1, M, 4h, 4w) of tokens (1, N, C), by matrix products; see `fast.upscaling`."""
        first, norm, second = upscaling_layers(self.sam.mask_decoder)
        height, width = self.sam.prompt_encoder.image_embedding_size
        y = (image @ weight_of_pixels(first)).unflatten(2, (4, -1)) + first.bias  # (1, N, 4, C / 4)
        if skip_8 is not None:
            y = y + skip_8
        y = F.gelu(F.layer_norm(y, y.shape[-1:], norm.weight, norm.bias, norm.eps))
        y = (y @ weight_of_pixels(second)).unflatten(3, (4, -1)).flatten(2, 3) + second.bias
        if skip_4 is not None:
            y = y + skip_4
        pixels = F.gelu(y).flatten(1, 2)  # (1, 16 N, C / 8)
        masks = (weights @ pixels.transpose(1, 2)).unflatten(2, (height, width, 2, 2, 2, 2))
        # From rows and columns within tokens, twice, to rows and columns of the map.
        logits: Tensor = masks.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(1, -1, 4 * height, 4 * width)
        return logits


def _positions(sam: Sam) -> Tensor:
    """Return the positional encoding of the image's tokens, (1, N, C)."""
    return sam.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
