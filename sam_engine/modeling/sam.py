"""The whole model: images to embeddings, embeddings and prompts to masks."""

import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.catalogue import Thresholds
from sam_engine.compute.device import is_queued, upload
from sam_engine.modeling.any_encoder import ImageEncoder, SkipFeatures, has_skip_features, unwrapped
from sam_engine.modeling.by_calls import decode_by_calls
from sam_engine.modeling.check_prompts import check_prompts
from sam_engine.modeling.fast.applies import why_not_fast
from sam_engine.modeling.fast.decoder import DecodedPrompts, decode_prompts, prompts_at_once, suited_prompts
from sam_engine.modeling.fast.prepared_image import prepare_image
from sam_engine.modeling.fast.upscaling import upscale_masks
from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.precision import HALF_DTYPES, cuda_tf32, full_precision, image_dtype, refuse_half
from sam_engine.modeling.prompt_encoder import PromptEncoder
from sam_engine.modeling.segmenter import ImageEmbedding as ImageEmbedding
from sam_engine.modeling.segmenter import Segmenter as Segmenter
from sam_engine.ops.resize import ResizeLongestSide, threshold_in_parts, upscale_logits

log = logging.getLogger(__name__)


class Sam(nn.Module):
    """Segment Anything. `encode` and `decode` are the engine; `forward` is the original's batch interface."""

    mask_threshold: float = 0.0
    image_format: str = "RGB"
    precision: str = "fp32"
    """As ``ModelConfig.precision``: of the image, in encoder and decoder. Prompts and masks are fp32."""
    thresholds: Thresholds = Thresholds()
    """What is recommended for masks of these weights."""
    _said: str | None = None
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: ImageEncoder,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.set_normalisation(pixel_mean, pixel_std)

    def set_normalisation(self, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        """Set mean and deviation of RGB in [0, 255]; as in the released models, no checkpoint holds them."""
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            tensor = torch.tensor(values, dtype=torch.get_default_dtype()).view(-1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.pixel_mean.device

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels: the encoder's ``img_size``, or else the prompts' frame."""
        size = getattr(unwrapped(self.image_encoder), "img_size", None)
        return self.prompt_encoder.input_image_size[0] if size is None else int(size)

    @property
    def prompts_at_once(self) -> int:
        """How many prompts an accelerator should decode together."""
        dtype, prompts = image_dtype(self.precision, self.device), self.prompt_encoder
        return suited_prompts(prompts.image_embedding_size, prompts.embed_dim, dtype or self.pixel_mean.dtype)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device or into another precision, as `torch.nn.Module.to` does, but not into a half one.

        Raises:
            ConfigError: The dtype is a half precision.
        """
        refuse_half(torch._C._nn._parse_to(*args, **kwargs)[1])
        return super().to(*args, **kwargs)

    def half(self) -> Self:
        """Raise `ConfigError`; see `to`."""
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        """Raise `ConfigError`; see `to`."""
        return self.to(torch.bfloat16)

    @torch.no_grad()
    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """Encode upright (H, W, 3) uint8 RGB images of any sizes, together."""
        if not images:
            return []
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"images are (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        if self.image_format != "RGB":
            images = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        transform = ResizeLongestSide(self.image_size)
        resized = [transform.apply_image(image) for image in images]
        inputs = torch.stack(
            [self.preprocess(upload(image, self.device).permute(2, 0, 1)) for image in resized]
        )
        features, skips = self.encode_inputs(inputs)
        embeddings = [
            ImageEmbedding(
                features=features[i : i + 1],
                skip_features=None if skips is None else (skips[0][i : i + 1], skips[1][i : i + 1]),
                input_size=(resized[i].shape[0], resized[i].shape[1]),
                original_size=(image.shape[0], image.shape[1]),
            )
            for i, image in enumerate(images)
        ]
        return [self.prepare(embedding) for embedding in embeddings] if self._is_fast() else embeddings

    def encode_inputs(self, inputs: Tensor) -> tuple[Tensor, SkipFeatures | None]:
        """Run the image encoder in the chosen precision on preprocessed images (B, 3, S, S).

        Returns:
            Features (B, C, h, w) and skip features if the model has some, in the model's own dtype.
        """
        dtype = self.pixel_mean.dtype
        half = HALF_DTYPES.get(self.precision)
        in_half = nullcontext() if half is None else torch.autocast(self.device.type, half)
        with cuda_tf32(self.device, self.precision == "tf32"), in_half:
            if has_skip_features(self.image_encoder):
                features, skips = self.image_encoder.forward_features(inputs)
            else:  # Whatever encodes: other networks have methods of this name and another meaning.
                features, skips = self.image_encoder(inputs), None
        return features.to(dtype), None if skips is None else (skips[0].to(dtype), skips[1].to(dtype))

    def decode(
        self,
        embedding: ImageEmbedding,
        *,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        iou_thresh: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks for P prompts on one image; see `Segmenter.decode`.

        Prompts and masks are always of the model's own dtype: predicted IoU decides filters and the order of
        NMS, and bfloat16 has 31 values between 0.88 and 1. Without gradients and mask prompts, the fast
        decoder is used; it gives the same up to rounding. `image_dtype` says in what it keeps the image.
        Autocast has no effect. Where something was put into decoder or prompt encoder (`why_not_fast`), they
        are called instead, as segment_anything does, under autocast if that is on.

        Raises:
            ValueError: Prompts do not fit together, or the embedding is not one image's.
        """
        self._check(embedding, point_coords, point_labels, boxes, mask_input)
        points = None if point_coords is None or point_labels is None else (point_coords, point_labels)
        embedding = embedding.in_dtype(self.pixel_mean.dtype)

        def by_calls() -> tuple[Tensor, Tensor]:
            return decode_by_calls(
                self.mask_decoder, self.prompt_encoder, embedding, points, boxes, mask_input, multimask_output
            )

        if not self._is_fast():
            with cuda_tf32(self.device, False):
                return by_calls()
        with full_precision(self.device):
            if mask_input is not None or torch.is_grad_enabled():
                return by_calls()
            prompts = {"point_coords": point_coords, "point_labels": point_labels, "boxes": boxes}
            return self._decode_in_blocks(
                embedding if embedding.prepared else self.prepare(embedding),
                {name: value for name, value in prompts.items() if value is not None},
                multimask_output,
                iou_thresh,
            )

    def _is_fast(self) -> bool:
        """Return whether the fast decoder may stand in; if not, say in the log why, once for each reason."""
        reason = why_not_fast(self.mask_decoder, self.prompt_encoder, self.pixel_mean.dtype)
        if reason is not None and reason != self._said:
            log.warning("%s: prompts are decoded by its own calls, which takes longer", reason)
            self._said = reason
        return reason is None

    def _check(
        self,
        embedding: ImageEmbedding,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None,
        mask_input: Tensor | None,
    ) -> None:
        """Raise `ValueError` unless the prompts fit together, and the embedding this model."""
        check_prompts(
            point_coords,
            point_labels,
            boxes,
            mask_input,
            mask_size=getattr(self.prompt_encoder, "mask_input_size", None),
        )
        if embedding.features.ndim != 4 or len(embedding.features) != 1:
            shape = tuple(embedding.features.shape)
            raise ValueError(f"features have shape {shape}; wanted are those of one image, (1, C, h, w)")
        if has_skip_features(self.image_encoder) and embedding.skip_features is None:
            raise ValueError("this model's masks need skip_features besides features, of the same image")

    def _decode_in_blocks(
        self,
        embedding: ImageEmbedding,
        prompts: dict[str, Tensor],
        multimask_output: bool,
        iou_thresh: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Decode the prompts of a prepared image, as many at once as suits the device, in the same memory."""
        prepared = embedding.prepared
        assert prepared is not None, "the embedding comes from Sam.prepare"
        num_prompts = min(map(len, prompts.values()), default=1)
        step = max(1, prompts_at_once(prepared, num_prompts))
        images = prepared.image.new_empty(step, *prepared.image.shape)
        logits, scores = [], []
        for start in range(0, max(1, num_prompts), step):
            decoded = self.decode_prompts(
                embedding,
                **{name: value[start : start + step] for name, value in prompts.items()},
                multimask_output=multimask_output,
                images=images,
            )
            # To find the prompts that are wanted is to wait for their scores.
            if iou_thresh is None or is_queued(self.device):
                found, score = self.upscale_masks(embedding, decoded, skip_padding=iou_thresh is not None)
                logits.append(found)
                scores.append(score)
                continue
            score = decoded.iou_predictions
            can_pass = score > iou_thresh - self.mask_decoder.max_raise
            chosen = can_pass.any(dim=1).nonzero()[:, 0]
            found, found_score = self.upscale_masks(embedding, decoded, chosen, skip_padding=True)
            if len(chosen) < len(score):
                found = found.new_zeros(len(score), *found.shape[1:]).index_copy_(0, chosen, found)
            logits.append(found)
            scores.append(score.index_copy(0, chosen, found_score))
        return torch.cat(logits), torch.cat(scores)

    @torch.no_grad()
    def prepare(self, embedding: ImageEmbedding) -> ImageEmbedding:
        """Return the embedding with what all prompts on its image share, computed once.

        Like the embedding itself it is of the weights that the model has now.
        """
        with full_precision(self.device):
            prepared = prepare_image(
                self.mask_decoder,
                embedding.features,
                self.prompt_encoder.get_dense_pe(),
                self.prompt_encoder.no_mask_embed.weight,
                embedding.skip_features,
                image_dtype(self.precision, self.device),
            )
        return replace(embedding, prepared=prepared)

    @torch.no_grad()
    def decode_prompts(
        self,
        embedding: ImageEmbedding,
        *,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        multimask_output: bool = True,
        images: Tensor | None = None,
    ) -> DecodedPrompts:
        """Predict the IoU of P prompts on a prepared image; `upscale_masks` makes the masks of those wanted.

        Together they give what `decode` gives, whose arguments these are. The result holds the tokens of an
        image for each prompt, 4 MiB with vit_* and 0.5 MiB with tiny: in ``images`` if given, (P or more,
        tokens, C), and as long as nothing else is written there.
        """
        assert embedding.prepared is not None, "the embedding comes from Sam.prepare"
        with full_precision(self.device):
            points = None if point_coords is None or point_labels is None else (point_coords, point_labels)
            sparse, _ = self.prompt_encoder(points=points, boxes=boxes, masks=None)
            places = self.prompt_encoder.places(points, boxes)
            return decode_prompts(
                self.mask_decoder, embedding.prepared, sparse, multimask_output, images, places
            )

    @torch.no_grad()
    def upscale_masks(
        self,
        embedding: ImageEmbedding,
        decoded: DecodedPrompts,
        chosen: Tensor | None = None,
        *,
        skip_padding: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return the logits (K, M, 4h, 4w) and the predicted IoU (K, M) of chosen prompts.

        Args:
            embedding: What the prompts were decoded with.
            decoded: From `decode_prompts`.
            chosen: (K,) indices of prompts. None: all.
            skip_padding: Leave logits 0 that no pixel of the image depends on: for a 3:2 image a third of
                the work. What `postprocess_masks` makes of them is the same.
        """
        assert embedding.prepared is not None, "the embedding comes from Sam.prepare"
        seen = self._tokens_of_image(embedding)
        with full_precision(self.device):
            return upscale_masks(self.mask_decoder, embedding.prepared, decoded, chosen, seen, skip_padding)

    def _tokens_of_image(self, embedding: ImageEmbedding) -> tuple[int, int]:
        """Return the (rows, columns) of tokens whose logits the image's pixels are interpolated from."""
        rows, columns = embedding.features.shape[-2:]
        logits_per_pixel = 4 * rows / self.image_size
        height, width = (
            # The later of the two logits that the centre of the last pixel lies between; 4 for each token.
            int((side - 0.5) * logits_per_pixel + 0.5) // 4 + 1
            for side in embedding.input_size
        )
        return min(rows, height), min(columns, width)

    @torch.no_grad()
    def forward(self, batched_input: list[dict[str, Any]], multimask_output: bool) -> list[dict[str, Tensor]]:
        """Predict masks for several images, each with its own prompts, already in the model's input frame.

        Args:
            batched_input: For each image a dict with ``image`` (3, H, W) as resized for the model,
                ``original_size`` (H, W), and optionally ``point_coords`` (P, N, 2) with ``point_labels``
                (P, N), ``boxes`` (P, 4), ``mask_inputs`` (P, 1, 4h, 4w).
            multimask_output: Return three alternatives for each prompt instead of one mask.

        Returns:
            For each image a dict with ``masks`` (P, M, H, W) bool, ``iou_predictions`` (P, M) and
            ``low_res_logits`` (P, M, 4h, 4w).
        """
        for record in batched_input:
            shape, side = tuple(record["image"].shape), self.image_size
            if len(shape) != 3 or shape[0] != 3 or max(shape[1:]) > side:
                raise ValueError(
                    f"image has shape {shape}; wanted is (3, H, W) of at most {side} pixels a side"
                )
        inputs = torch.stack([self.preprocess(record["image"]) for record in batched_input])
        features, skips = self.encode_inputs(inputs)
        outputs = []
        for i, record in enumerate(batched_input):
            embedding = ImageEmbedding(
                features=features[i : i + 1],
                skip_features=None if skips is None else (skips[0][i : i + 1], skips[1][i : i + 1]),
                input_size=tuple(record["image"].shape[-2:]),
                original_size=tuple(record["original_size"]),
            )
            low_res_logits, iou_predictions = self.decode(
                embedding,
                point_coords=record.get("point_coords"),
                point_labels=record.get("point_labels"),
                boxes=record.get("boxes"),
                mask_input=record.get("mask_inputs"),
                multimask_output=multimask_output,
            )
            upscale = partial(
                self.postprocess_masks,
                input_size=embedding.input_size,
                original_size=embedding.original_size,
            )
            pixels = max(self.image_size**2, math.prod(embedding.original_size))
            masks = threshold_in_parts(upscale, low_res_logits, self.mask_threshold, pixels)
            outputs.append(
                {
                    "masks": masks,
                    "iou_predictions": iou_predictions,
                    "low_res_logits": low_res_logits,
                }
            )
        return outputs

    def postprocess_masks(
        self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]
    ) -> Tensor:
        """Bring logits (P, M, 4h, 4w) to the original image, (P, M, H, W); see `upscale_logits`."""
        return upscale_logits(masks, self.image_size, input_size, original_size)

    def preprocess(self, x: Tensor) -> Tensor:
        """Normalise a (..., 3, H, W) image in [0, 255], then pad it at the bottom and right to a square."""
        x = (x - self.pixel_mean) / self.pixel_std
        height, width = x.shape[-2:]
        return F.pad(x, (0, self.image_size - width, 0, self.image_size - height))
