"""AVIF, by Pillow's libavif."""

import io
import threading

import numpy as np
from PIL import AvifImagePlugin

from sam_engine.images.image_header import ImageHeader, unsupported
from sam_engine.images.isobmff import brands, largest_picture
from sam_engine.images.orientation import pillow_orientation
from sam_engine.images.pixels import to_rgb

_BRANDS = (b"avif", b"avis")
_threads_lock = threading.Lock()


def is_avif(data: bytes) -> bool:
    """Return whether the file type box names AVIF."""
    found = brands(data)
    return bool(found) and found[0] in (*_BRANDS, b"mif1", b"msf1") and not set(_BRANDS).isdisjoint(found)


def avif_header(data: bytes) -> ImageHeader:
    """Return the size of the largest picture. Raises as `largest_picture`."""
    width, height = largest_picture(data, "AVIF")
    return ImageHeader(format="AVIF", width=width, height=height)


def decode_avif(data: bytes, background: int) -> tuple[np.ndarray, int]:
    """Return the first picture as stored, (H, W, 3) uint8, and its orientation."""
    if not AvifImagePlugin.SUPPORTED:
        raise unsupported("AVIF, which this build of Pillow does not read")
    with _threads_lock:
        before = AvifImagePlugin.DEFAULT_MAX_THREADS
        AvifImagePlugin.DEFAULT_MAX_THREADS = (
            1  # or as many as the machine has cores, in each decoding thread
        )
        try:
            image = AvifImagePlugin.AvifImageFile(io.BytesIO(data))
        finally:
            AvifImagePlugin.DEFAULT_MAX_THREADS = before
    with image:
        return to_rgb(image, background), pillow_orientation(image)
