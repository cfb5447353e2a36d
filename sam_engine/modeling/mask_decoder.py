"""From an image embedding and prompt tokens to masks and their predicted IoU."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.modeling.any_encoder import SkipFeatures
from sam_engine.modeling.common import LayerNorm2d
from sam_engine.modeling.mask_shapes import NUM_SHAPES, MaskCounts, count_masks, mask_overlaps, mask_shapes
from sam_engine.modeling.prompt_maps import NUM_MAPS, PromptPlaces, pixel_centres, prompt_maps
from sam_engine.modeling.transformer import TwoWayTransformer

SHAPE_HIDDEN_DIM = 32
MAX_RAISE, MAX_FALL = 0.15, 0.4
"""What the shape of a mask adds at most to its predicted IoU, and takes at most from it. The one is smaller:
it decides which masks have to be made to know that they do not pass a threshold."""


class MaskDecoder(nn.Module):
    """Predict ``num_multimask_outputs`` alternative masks for an ambiguous prompt, or one for a clear one."""

    has_prompt_maps: bool = False
    """Whether it reads `prompt_maps`, `mask_shapes` and skip features besides what the original reads."""

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: TwoWayTransformer,
        num_multimask_outputs: int = 3,
        activation: Callable[[], nn.Module] = nn.GELU,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
        has_prompt_maps: bool = False,
    ) -> None:
        """Make a decoder of these sizes; ``has_prompt_maps`` adds `prompt_maps` and `mask_shapes`."""
        super().__init__()
        self.transformer_dim = transformer_dim
        self.transformer = transformer
        self.num_multimask_outputs = num_multimask_outputs
        self.num_mask_tokens = num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(transformer_dim, transformer_dim // 4, 2, stride=2),
            LayerNorm2d(transformer_dim // 4),
            activation(),
            nn.ConvTranspose2d(transformer_dim // 4, transformer_dim // 8, 2, stride=2),
            activation(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(transformer_dim, transformer_dim, transformer_dim // 8, 3)
            for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(
            transformer_dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth
        )
        self.has_prompt_maps = has_prompt_maps
        if has_prompt_maps:  # all zero: no effect until they are trained
            self.map_to_image = nn.Linear(NUM_MAPS, transformer_dim, bias=False)
            self.map_heads = nn.ModuleList(
                nn.Linear(transformer_dim, NUM_MAPS) for _ in range(self.num_mask_tokens)
            )
            num_inputs = 1 + NUM_SHAPES + num_multimask_outputs
            shape_heads = [MLP(num_inputs, SHAPE_HIDDEN_DIM, 1, 2) for _ in range(self.num_mask_tokens)]
            self.shape_heads = nn.ModuleList(shape_heads)
            last_layers: list[nn.Module] = [head.layers[-1] for head in shape_heads]
            for module in (self.map_to_image, self.map_heads, *last_layers):
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        skip_features: SkipFeatures | None = None,
        places: PromptPlaces | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks for P prompts.

        Args:
            image_embeddings: (1, C, h, w) for all prompts, or (P, C, h, w) with one image for each prompt.
            image_pe: (1, C, h, w).
            sparse_prompt_embeddings: (P, tokens, C).
            dense_prompt_embeddings: (P, C, h, w).
            multimask_output: Return the alternatives (mask tokens 1 and up), not the single mask (token 0).
            skip_features: Maps at strides 4 and 8, batched like ``image_embeddings``; only for models that
                were trained with them.
            places: Where the prompts are; only for decoders with prompt maps, which need it.

        Returns:
            Mask logits (P, M, 4h, 4w) and predicted IoU (P, M), where M is ``num_multimask_outputs`` or 1.
        """
        # What a subclass of the original's replaces knows no more than the original's arguments.
        more: dict[str, Any] = {}
        if skip_features is not None or places is not None:
            more = {"skip_features": skip_features, "places": places}
        masks, iou_pred = self.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=image_pe,
            sparse_prompt_embeddings=sparse_prompt_embeddings,
            dense_prompt_embeddings=dense_prompt_embeddings,
            **more,
        )
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, chosen], iou_pred[:, chosen]

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        skip_features: SkipFeatures | None = None,
        places: PromptPlaces | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the logits and IoU of all mask tokens: (P, 1 + M, 4h, 4w) and (P, 1 + M)."""
        if self.has_prompt_maps and (skip_features is None or places is None):
            raise ValueError(
                "this decoder reads more than the original's: give it skip_features of the image's embedding "
                "and places=prompt_encoder.places(points, boxes), or call Sam.decode"
            )
        batch = len(sparse_prompt_embeddings)
        own_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own_tokens.expand(batch, -1, -1), sparse_prompt_embeddings], dim=1)
        image = image_embeddings + dense_prompt_embeddings  # (P, C, h, w): one image is broadcast
        image_pe = image_pe.expand_as(image)
        height, width = image.shape[-2:]

        prior = self.image_prior(places, height, width)
        priors = () if prior is None else (prior,)
        tokens, image = self.transformer(image, image_pe, tokens, *priors)
        image = image.transpose(1, 2)
        image = image.reshape(*image.shape[:2], height, width)
        upscaled = self._upscale(image, skip_features)  # (P, C / 8, 4h, 4w)
        weights = torch.stack(
            [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        masks = weights @ upscaled.flatten(2)
        masks = masks.view(*masks.shape[:2], *upscaled.shape[-2:])
        if places is not None and self.has_prompt_maps:
            x, y = pixel_centres(4 * width, places.coords), pixel_centres(4 * height, places.coords)
            masks = masks + self.mask_prior(tokens[:, 1:], slice(None), places, x, y)
        return masks, self.score_masks(self.iou_prediction_head(tokens[:, 0]), masks, places)

    def image_prior(self, places: PromptPlaces | None, height: int, width: int) -> Tensor | None:
        """Return what prompt maps add to the image's tokens, (P, h * w, C); None without such maps."""
        maps = self.image_maps(places, height, width)
        if maps is None:
            return None
        prior: Tensor = self.map_to_image(maps.transpose(1, 2))
        return prior

    def image_maps(self, places: PromptPlaces | None, height: int, width: int) -> Tensor | None:
        """Return the prompt maps that `image_prior` is made of, (P, 16, h * w), or None.

        Raises:
            ValueError: The decoder has prompt maps, but there are no places.
        """
        if not self.has_prompt_maps:
            return None
        if places is None:
            raise ValueError("a decoder with prompt maps needs the places of its prompts")
        x, y = pixel_centres(width, places.coords), pixel_centres(height, places.coords)
        return prompt_maps(places, x, y).flatten(2)

    def mask_prior(
        self, mask_tokens: Tensor, chosen: slice, places: PromptPlaces, x: Tensor, y: Tensor
    ) -> Tensor:
        """Return what prompt maps add to mask logits, (P, M, h, w).

        Args:
            mask_tokens: (P, M, C).
            chosen: Which mask tokens they are.
            places: Of the prompts.
            x: (w,) columns.
            y: (h,) rows.
        """
        heads = list(self.map_heads)[chosen]
        weights = torch.stack([head(mask_tokens[:, i]) for i, head in enumerate(heads)], dim=1)
        maps = prompt_maps(places, x, y).flatten(2)
        prior: Tensor = (weights @ maps).unflatten(2, (len(y), len(x)))
        return prior

    @property
    def max_raise(self) -> float:
        """By how much at most `score_masks` raises the predicted IoU."""
        return MAX_RAISE if self.has_prompt_maps else 0.0

    def score_masks(
        self,
        iou_pred: Tensor,
        masks: Tensor,
        places: PromptPlaces | None,
        first_mask: int = 0,
        count: Callable[[Tensor], MaskCounts] = count_masks,
    ) -> Tensor:
        """Return the predicted IoU (P, M) of masks that were made, with what their shapes say, if it is read.

        Args:
            iou_pred: (P, M), by the IoU token.
            masks: (P, M, h, w) logits.
            places: Of the prompts, for decoders with prompt maps.
            first_mask: Number of the first of them among the mask tokens.
            count: Another way to count their pixels.
        """
        if not self.has_prompt_maps or places is None:
            return iou_pred
        counts = count(masks)
        single = 1 - first_mask  # how many come before the alternatives, which alone are compared
        if masks.shape[1] > single:
            overlaps = F.pad(mask_overlaps(counts, single), (0, 0, single, 0))
        else:
            overlaps = iou_pred.new_zeros(len(masks), 1, self.num_multimask_outputs)
        parts = iou_pred[..., None], mask_shapes(counts, places), overlaps
        numbers = torch.cat([part.to(iou_pred.dtype) for part in parts], dim=2)
        heads = list(self.shape_heads)[first_mask:]
        added = torch.cat([heads[i](numbers[:, i]) for i in range(numbers.shape[1])], dim=1)
        limit = torch.where(added > 0, MAX_RAISE, MAX_FALL).to(added.dtype)
        return iou_pred + limit * (added / limit).tanh()

    def _upscale(self, image: Tensor, skip_features: SkipFeatures | None) -> Tensor:
        """Map (P, C, h, w) to (P, C / 8, 4h, 4w), adding skip features where SAM 2 does."""
        if skip_features is None:
            plain: Tensor = self.output_upscaling(image)
            return plain
        stride_4, stride_8 = skip_features
        first, norm, activation_1, second, activation_2 = self.output_upscaling
        halfway = activation_1(norm(first(image) + stride_8))
        upscaled: Tensor = activation_2(second(halfway) + stride_4)
        return upscaled


class MLP(nn.Module):
    """A perceptron with ReLU between its layers: the heads of the mask decoder."""

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        sigmoid_output: bool = False,
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        dims = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))
        self.sigmoid_output = sigmoid_output

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., input_dim) to (..., output_dim)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        y: Tensor = last(x)
        return y.sigmoid() if self.sigmoid_output else y
