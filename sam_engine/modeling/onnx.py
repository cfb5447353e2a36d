"""The decoder as one traceable module, with the inputs and outputs of segment_anything's ONNX models."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.catalogue import MODELS
from sam_engine.errors import ConfigError
from sam_engine.modeling.any_encoder import has_skip_features
from sam_engine.modeling.sam import Sam
from sam_engine.ops.masks import calculate_stability_score

MULTI_CLICK_POINTS = 2.5
"""With more points than this the prompt is clear and mask token 0 is chosen, otherwise the best other."""


class SamOnnxModel(nn.Module):
    """Prompt encoder, mask decoder and upscaling of a model with a ViT, without branches on tensors.

    The image encoder is not part of it: its output is an input.
    """

    def __init__(
        self,
        model: Sam,
        return_single_mask: bool,
        use_stability_score: bool = False,
        return_extra_metrics: bool = False,
    ) -> None:
        """Wrap a model.

        Args:
            model: Without skip features, which have no place among the inputs.
            return_single_mask: Return the mask that fits the number of points, not all four.
            use_stability_score: Score masks by their stability at low resolution, not by predicted IoU.
            return_extra_metrics: Return stability and area at full resolution too.

        Raises:
            ConfigError: The model has another encoder.
        """
        super().__init__()
        if has_skip_features(model.image_encoder):
            fitting = [name for name, row in MODELS.items() if not row.architecture.family.has_skip_features]
            raise ConfigError(
                f"SamOnnxModel needs one of {', '.join(fitting)}; this model has skip features besides"
            )
        self.model = model
        self.mask_decoder = model.mask_decoder
        self.img_size = model.image_size
        self.return_single_mask = return_single_mask
        self.use_stability_score = use_stability_score
        self.stability_score_offset = 1.0
        self.return_extra_metrics = return_extra_metrics

    def _embed_points(self, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        return embed_points(self.model, point_coords, point_labels)

    def _embed_masks(self, input_mask: Tensor, has_mask_input: Tensor) -> Tensor:
        return embed_masks(self.model, input_mask, has_mask_input)

    @torch.no_grad()
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, ...]:
        """Predict masks for one prompt. All inputs are float32.

        Args:
            image_embeddings: (1, C, h, w).
            point_coords: (1, N, 2) as (x, y) in the model's input frame.
            point_labels: (1, N): 0 background, 1 foreground, 2 and 3 the corners of a box, -1 not a point.
                Without a box, one point with label -1 must be among them.
            mask_input: (1, 1, 4h, 4w) logits of a previous round, or zeros.
            has_mask_input: (1,): 1 if ``mask_input`` counts, 0 if not.
            orig_im_size: (2,): H and W of the image.

        Returns:
            Logits (1, M, H, W), scores (1, M) and low-resolution logits (1, M, 4h, 4w), where M is 1 or 4;
            with ``return_extra_metrics``, stability (1, M) and area (1, M) before the low-resolution logits.
        """
        masks, scores = self.mask_decoder.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self._embed_points(point_coords, point_labels),
            dense_prompt_embeddings=self._embed_masks(mask_input, has_mask_input),
        )
        threshold = self.model.mask_threshold
        if self.use_stability_score:
            scores = calculate_stability_score(masks, threshold, self.stability_score_offset)
        if self.return_single_mask:
            masks, scores = self.select_masks(masks, scores, point_coords.shape[1])
        upscaled = self.mask_postprocessing(masks, orig_im_size)
        if not self.return_extra_metrics:
            return upscaled, scores, masks
        stability = calculate_stability_score(upscaled, threshold, self.stability_score_offset)
        areas = (upscaled > threshold).sum(-1).sum(-1)
        return upscaled, scores, stability, areas, masks

    @staticmethod
    def resize_longest_image_size(input_image_size: Tensor, longest_side: int) -> Tensor:
        """Return the (2,) int64 size that an image of (2,) is resized to."""
        size = input_image_size.to(torch.float32)
        return torch.floor(size * (longest_side / torch.max(size)) + 0.5).to(torch.int64)

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """Bring logits to the image's size, computed from the tensor so that export keeps it variable."""
        input_size = self.resize_longest_image_size(orig_im_size, self.img_size)
        return upscale_to_image(masks, self.img_size, input_size, orig_im_size)

    def select_masks(self, masks: Tensor, iou_preds: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
        """Return token 0's mask for a clear prompt, otherwise the best of the others."""
        tokens = torch.arange(iou_preds.shape[1], device=iou_preds.device)
        first = torch.where(tokens == 0, 1000.0, 0.0)
        best = (iou_preds + (num_points - MULTI_CLICK_POINTS) * first).argmax(dim=1)
        rows = torch.arange(len(masks), device=masks.device)
        return masks[rows, best][:, None], iou_preds[rows, best][:, None]


def embed_points(model: Sam, point_coords: Tensor, point_labels: Tensor) -> Tensor:
    """Return the (1, N, C) tokens of points and box corners, given as to `SamOnnxModel.forward`."""
    encoder = model.prompt_encoder
    embedding = encoder.pe_layer._pe_encoding((point_coords + 0.5) / model.image_size)
    labels = point_labels[..., None]
    embedding = embedding * (labels != -1) + encoder.not_a_point_embed.weight * (labels == -1)
    for value, kind in enumerate(encoder.point_embeddings):
        weight: Tensor = kind.get_parameter("weight")
        embedding = embedding + weight * (labels == value)
    return embedding


def embed_masks(model: Sam, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
    """Return the (1, C, h, w) map of the mask, or of its absence."""
    encoder = model.prompt_encoder
    absent = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    embedding: Tensor = has_mask_input * encoder.mask_downscaling(mask_input) + (1 - has_mask_input) * absent
    return embedding


def upscale_to_image(masks: Tensor, side: int, input_size: Tensor, orig_im_size: Tensor) -> Tensor:
    """Bring logits (1, M, 4h, 4w) to (1, M, H, W), by sizes in tensors: `upscale_logits` for graphs."""
    square = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
    height, width = _sizes(input_size, at_most=side)
    image = square[..., :height, :width]
    size = _sizes(orig_im_size.to(torch.int64))
    return F.interpolate(image, size, mode="bilinear", align_corners=False)


def _sizes(size: Tensor, at_most: int | None = None) -> tuple[Any, Any]:
    """Return the H and W in a (2,) int64 tensor, as what the exporter at work keeps variable.

    Tracing follows tensors; torch.export follows the numbers, of which it must be told the range.
    """
    if not torch.compiler.is_exporting():
        return size[0], size[1]
    height, width = size.tolist()
    for number in (height, width):
        torch._check(number >= 1)
        if at_most is not None:
            torch._check(number <= at_most)
    return height, width
