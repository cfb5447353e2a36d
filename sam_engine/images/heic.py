"""HEIC, where the extra ``heic`` is installed: by pillow-heif, which turns pictures upright itself."""

import functools
import importlib.util
import io

import numpy as np

from sam_engine.images.image_header import ImageHeader
from sam_engine.images.isobmff import brands, largest_picture
from sam_engine.images.pixels import to_rgb

_BRANDS = (b"heic", b"heix", b"heim", b"heis")


def is_readable_heic(data: bytes) -> bool:
    """Return whether the file type box names HEIC, and there is something to read it with."""
    found = brands(data)
    return (
        bool(found) and found[0] in (*_BRANDS, b"mif1") and not set(_BRANDS).isdisjoint(found) and has_heic()
    )


@functools.cache
def has_heic() -> bool:
    """Return whether pillow-heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def heic_header(data: bytes) -> ImageHeader:
    """Return the size of the largest picture, as stored. Raises as `largest_picture`."""
    width, height = largest_picture(data, "HEIC")
    return ImageHeader(format="HEIC", width=width, height=height)


def decode_heic(data: bytes, background: int) -> np.ndarray:
    """Return the first picture upright, (H, W, 3) uint8."""
    import pillow_heif

    with pillow_heif.HeifImageFile(io.BytesIO(data)) as image:
        return to_rgb(image, background)
