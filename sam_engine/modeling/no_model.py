"""In place of a model where none looks at the images."""

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from sam_engine.modeling.segmenter import ImageEmbedding


class NoModel:
    """A `Segmenter` that nothing is asked of: images get rows without masks."""

    mask_threshold = 0.0
    image_size = 1024
    device = torch.device("cpu")

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> NoReturn:
        """Raise: whoever encodes an image wants masks of it."""
        raise AssertionError("there is no model, and nothing is to be encoded")

    def decode(self, embedding: ImageEmbedding, **prompts: object) -> NoReturn:
        """Raise, as `encode`."""
        raise AssertionError("there is no model, and nothing is to be decoded")
