"""The two halves of a model as graphs that ONNX files are made of: what runs once an image, and each prompt.

S the side of the model's input, C channels, (h, w) of the embedding, N points, M mask tokens.
"""

import torch
from torch import Tensor, nn

from sam_engine.modeling.any_encoder import has_skip_features
from sam_engine.modeling.onnx import SamOnnxModel, embed_masks, embed_points, upscale_to_image
from sam_engine.modeling.prompt_maps import PromptPlaces
from sam_engine.modeling.sam import Sam

SKIPS = ("skip_4", "skip_8")
"""Names of skip features, (1, C/8, 4h, 4w) and (1, C/4, 2h, 2w): out of the encoder, into the decoder."""


class DecoderGraph(nn.Module):
    """Prompt encoder and mask decoder for one prompt, with the names of segment_anything's ONNX models.

    Models with skip features have two more inputs, at the end.
    """

    def __init__(self, sam: Sam, *, full_size: bool = False) -> None:
        """Wrap a model; with ``full_size``, ``orig_im_size`` goes in and ``masks`` of that size come out."""
        super().__init__()
        self.sam = sam
        self.full_size = full_size
        self.input_names = (
            "image_embeddings",
            "point_coords",
            "point_labels",
            "mask_input",
            "has_mask_input",
            *(("orig_im_size",) if full_size else ()),
            *(SKIPS if has_skip_features(sam.image_encoder) else ()),
        )
        self.output_names = (*(("masks",) if full_size else ()), "iou_predictions", "low_res_masks")
        self.dynamic_axes = {name: {1: "num_points"} for name in ("point_coords", "point_labels")}
        if full_size:
            self.dynamic_axes["masks"] = {2: "height", 3: "width"}

    def example(self) -> dict[str, Tensor]:
        """Return inputs to trace with."""
        encoder, side = self.sam.prompt_encoder, self.sam.image_size
        channels, (height, width) = encoder.embed_dim, encoder.image_embedding_size
        values = {
            "image_embeddings": torch.zeros(1, channels, height, width),
            "point_coords": torch.full((1, 5, 2), side / 2),
            "point_labels": torch.tensor([[1.0, 0, -1, 2, 3]]),
            "mask_input": torch.zeros(1, 1, *encoder.mask_input_size),
            "has_mask_input": torch.ones(1),
            "orig_im_size": torch.tensor([side / 2, side]),
            "skip_4": torch.zeros(1, channels // 8, 4 * height, 4 * width),
            "skip_8": torch.zeros(1, channels // 4, 2 * height, 2 * width),
        }
        return {name: values[name] for name in self.input_names}

    @torch.no_grad()
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor | None = None,
        skip_4: Tensor | None = None,
        skip_8: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Predict all masks of one prompt; `SamOnnxModel.forward` says what the first inputs are.

        Args:
            image_embeddings: (1, C, h, w).
            point_coords: (1, N, 2).
            point_labels: (1, N).
            mask_input: (1, 1, 4h, 4w).
            has_mask_input: (1,).
            orig_im_size: (2,) with ``full_size``.
            skip_4: (1, C/8, 4h, 4w), if the model has skip features.
            skip_8: (1, C/4, 2h, 2w), likewise.

        Returns:
            Logits (1, M, H, W) with ``full_size``; scores (1, M); logits (1, M, 4h, 4w). The first of M is
            for clear prompts, the others are alternatives for one that is not.
        """
        skips = places = None
        if skip_4 is not None and skip_8 is not None:
            skips = skip_4, skip_8
            places = PromptPlaces(coords=(point_coords + 0.5) / self.sam.image_size, labels=point_labels)
        masks, scores = self.sam.mask_decoder.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=embed_points(self.sam, point_coords, point_labels),
            dense_prompt_embeddings=embed_masks(self.sam, mask_input, has_mask_input),
            skip_features=skips,
            places=places,
        )
        if orig_im_size is None:
            return scores, masks
        side = self.sam.image_size
        input_size = SamOnnxModel.resize_longest_image_size(orig_im_size, side)
        return upscale_to_image(masks, side, input_size, orig_im_size), scores, masks


class EncoderGraph(nn.Module):
    """The image encoder, with the normalisation and padding before it."""

    input_names = ("image",)

    def __init__(self, sam: Sam) -> None:
        """Wrap a model."""
        super().__init__()
        self.sam = sam
        skips = SKIPS if has_skip_features(sam.image_encoder) else ()
        self.output_names = ("image_embeddings", *skips)
        self.dynamic_axes = {"image": {2: "height", 3: "width"}}

    def example(self) -> dict[str, Tensor]:
        """Return inputs to trace with."""
        side = self.sam.image_size
        return {"image": torch.zeros(1, 3, side // 2, side)}

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map RGB in [0, 255], (1, 3, H, W) with a longer side of S, to the embedding and skip features."""
        side = self.sam.image_size
        square = self.sam.preprocess(image).reshape(1, 3, side, side)  # a shape that the graph knows
        features, skips = self.sam.encode_inputs(square)
        return features, *(skips or ())
