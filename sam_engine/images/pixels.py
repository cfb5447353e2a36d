"""Decoded samples to 8-bit RGB, by the table in docs/images.md."""

import numpy as np
from PIL import Image

from sam_engine.images.image_header import unsupported

_UNSCALED = {"F": "floating point", "I": "signed or 32-bit integer", "LAB": "CIE Lab"}


def to_rgb(image: Image.Image, background: int) -> np.ndarray:
    """Return the first frame of an open Pillow image as (H, W, 3) uint8, by the table in docs/images.md."""
    image.load()
    mode = image.mode
    if mode in _UNSCALED:
        raise unsupported(f"{_UNSCALED[mode]} samples have no fixed range; save the image with 8 or 16 bits")
    if mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        return composite(image.convert("RGBA"), background)
    return np.array(image if mode == "RGB" else image.convert("RGB"))


def composite(rgba: Image.Image, background: int) -> np.ndarray:
    """Return (H, W, 3) uint8: an RGBA image over one grey level."""
    canvas = Image.new("RGB", rgba.size, (background,) * 3)
    canvas.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))  # rounds (a * c + (255 - a) * b) / 255
    return np.array(canvas)


def repeat_grey(grey: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) from (H, W)."""
    return np.repeat(grey[:, :, None], 3, axis=2)
