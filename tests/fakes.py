"""Fakes that we own, for tests that need a model but not its weights."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.modeling.sam import ImageEmbedding
from sam_engine.ops.resize import ResizeLongestSide


class DiscSegmenter:
    """A `Segmenter` that answers every point with three discs round it: logits are radius - distance.

    Predicted IoU is 0.9, 0.95 and 1.0 from the smallest disc to the largest, so each survives the default
    thresholds, and a disc's edge is crisp (the two cuts of the stability score are two pixels apart).
    """

    mask_threshold = 0.0

    def __init__(self, radii: Sequence[float] = (30.0, 40.0, 50.0), image_size: int = 256) -> None:
        """Take radii in pixels of the square input, whose side is ``image_size``."""
        self.radii = torch.tensor(radii)
        self.image_size = image_size
        self.device = torch.device("cpu")

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """Note the sizes; pixels do not matter."""
        embeddings = []
        for image in images:
            height, width = image.shape[:2]
            embeddings.append(
                ImageEmbedding(
                    features=torch.zeros(1, 1, self.image_size // 16, self.image_size // 16),
                    input_size=ResizeLongestSide.get_preprocess_shape(height, width, self.image_size),
                    original_size=(height, width),
                )
            )
        return embeddings

    def decode(
        self,
        embedding: ImageEmbedding,
        *,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Draw discs round the first point of every prompt."""
        assert point_coords is not None
        side = self.image_size // 4
        centres = (torch.arange(side) + 0.5) * 4
        x = centres[None, None, :] - point_coords[:, 0, 0, None, None].float()
        y = centres[None, :, None] - point_coords[:, 0, 1, None, None].float()
        distance = torch.sqrt(x * x + y * y)[:, None]  # (P, 1, 4h, 4w)
        logits = self.radii[None, :, None, None] - distance
        scores = torch.tensor([[0.9, 0.95, 1.0]]).expand(len(point_coords), 3)
        if multimask_output:
            return logits, scores
        return logits[:, :1], scores[:, :1]


def make_disc_segmenter() -> DiscSegmenter:
    """Return one; picklable as a factory."""
    return DiscSegmenter()
