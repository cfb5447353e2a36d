"""The seam between the networks and what uses them: `Segmenter`, and the embedding that goes across."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.modeling.any_encoder import SkipFeatures
from sam_engine.modeling.fast.prepared_image import PreparedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEmbedding:
    """One encoded image: all that the decoder needs, for any number of prompts."""

    features: Tensor
    """(1, C, h, w)."""
    input_size: tuple[int, int]
    """(H, W) of the image within the model's square input; the rest is padding."""
    original_size: tuple[int, int]
    """(H, W) of the image that was given."""
    skip_features: SkipFeatures | None = None
    prepared: PreparedImage | None = None
    """What `Sam.prepare` adds, for many prompts on one image."""

    def in_dtype(self, dtype: torch.dtype) -> Self:
        """Return it with maps of this dtype: under autocast, an encoder may give others."""
        if self.features.dtype == dtype:
            return self
        skips = self.skip_features
        return replace(
            self,
            features=self.features.to(dtype),
            skip_features=None if skips is None else (skips[0].to(dtype), skips[1].to(dtype)),
            prepared=None,
        )


class Segmenter(Protocol):
    """What predictor and generator need of a model. `Sam` is one; tests use a fake."""

    mask_threshold: float
    """Logits above this are foreground."""

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels; the longer side of an image is resized to it."""

    @property
    def device(self) -> torch.device:
        """Where embeddings live and prompts are expected."""

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """Encode upright (H, W, 3) uint8 RGB images of any sizes, together."""

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
        """Predict masks for P prompts on one image.

        Args:
            embedding: From `encode`.
            point_coords: (P, N, 2) as (x, y) in pixels of the model's input frame.
            point_labels: (P, N): 1 foreground, 0 background, -1 not a point.
            boxes: (P, 4) XYXY in the same frame.
            mask_input: (P, 1, 4h, 4w) logits of a previous round.
            multimask_output: Return three alternatives for each prompt instead of one mask.
            iou_thresh: If given, a model may save work: the logits of prompts without a predicted IoU above
                it are not wanted, nor are logits that no pixel of the image depends on; they may be 0.

        Returns:
            Logits (P, M, 4h, 4w) over the padded square input, and predicted IoU (P, M), both float32.
        """
