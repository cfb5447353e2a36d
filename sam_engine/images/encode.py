"""Pixels as the copies that leave the engine: JPEG, and nothing in it but the picture."""

import numpy as np
import simplejpeg
from numpy.typing import NDArray

JPEG_QUALITY = 95
"""Of upright copies. Chroma is not subsampled, so that edges stay where the masks have them."""


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return (H, W, 3) uint8 RGB as JPEG, without metadata. The same pixels give the same bytes."""
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"
    )
    return data
