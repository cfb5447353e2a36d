"""TIFF to RGB: the first page, in the kinds of layout that `tiff` lets pass."""

import io
import threading
import warnings

import numpy as np
from PIL import Image, TiffImagePlugin

from sam_engine.config import DecodeConfig
from sam_engine.images.image_header import unsupported
from sam_engine.images.pixels import composite, repeat_grey, to_eight_bits, to_rgb
from sam_engine.images.tiff import (
    BLACK_IS_ZERO,
    CMYK,
    FAX,
    JPEG,
    PALETTE,
    WHITE_IS_ZERO,
    YCBCR,
    TiffLayout,
    tiff_layout,
    without_orientation,
)
from sam_engine.images.tiff_samples import read_samples

# catch_warnings changes the whole process; the lock keeps two threads from restoring each other's filters.
_warnings_lock = threading.Lock()


def decode_tiff(data: bytes, config: DecodeConfig) -> np.ndarray:
    """Return the first page as stored, (H, W, 3) uint8.

    Raises:
        ImageError: As `tiff_layout`; TOO_LARGE; UNSUPPORTED for samples without a range or colours.
    """
    layout = tiff_layout(data)
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if layout.compression == JPEG or layout.compression in FAX:
            with TiffImagePlugin.TiffImageFile(io.BytesIO(without_orientation(data))) as image:
                return to_rgb(image, config.background)
        _check_range(layout)
        colours = _colour_samples(layout)
        chosen = colours if layout.alpha is None else (*colours, layout.alpha)
        samples = read_samples(data, layout, chosen, config)
    rgb = _to_rgb(samples[:, :, : len(colours)], layout)
    if layout.alpha is None:
        return rgb
    alpha = to_eight_bits(samples[:, :, -1:], layout.bits)
    rgba = np.concatenate([rgb, alpha], axis=2).tobytes()
    stored_as = "RGBa" if layout.premultiplied else "RGBA"
    return composite(Image.frombytes("RGBA", layout.size[::-1], rgba, "raw", stored_as), config.background)


def _check_range(layout: TiffLayout) -> None:
    """Raise UNSUPPORTED unless black and white are known."""
    if layout.samples != "unsigned integer" or layout.bits > 16:
        kind = f"{layout.bits}-bit {layout.samples}"
        raise unsupported(f"{kind} samples have no fixed range; save the image with 8 or 16 bits")


def _colour_samples(layout: TiffLayout) -> tuple[int, ...]:
    """Return which samples of a pixel are its colour.

    Raises:
        ImageError: UNSUPPORTED for bands of which nothing says what they are.
    """
    if layout.photometric == BLACK_IS_ZERO and layout.num_colours > 3:
        raise unsupported(
            f"TIFF with {layout.num_colours} bands, and nothing says which are red, green and blue"
        )
    return tuple(range(layout.num_colours))


def _to_rgb(samples: np.ndarray, layout: TiffLayout) -> np.ndarray:
    """Return (H, W, 3) uint8 from the samples that are colour, (H, W, 1, 3 or 4)."""
    if layout.photometric == PALETTE:
        colormap = np.array(layout.colormap[: 3 * 2**layout.bits]) // 256
        rgb: np.ndarray = colormap.reshape(3, -1).T.astype(np.uint8)[samples[:, :, 0]]
        return rgb
    values = to_eight_bits(samples, layout.bits)
    if layout.photometric == WHITE_IS_ZERO:
        values = 255 - values
    if layout.photometric in (CMYK, YCBCR):
        mode = "CMYK" if layout.photometric == CMYK else "YCbCr"
        image = Image.frombytes(mode, layout.size[::-1], values.tobytes())
        return np.array(image.convert("RGB"))
    return repeat_grey(values[:, :, 0]) if values.shape[2] == 1 else np.ascontiguousarray(values)
