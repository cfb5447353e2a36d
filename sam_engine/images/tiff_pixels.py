"""TIFF to RGB: the first page, in the kinds of layout that `tiff` lets pass."""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, TiffImagePlugin

from sam_engine.config import DecodeConfig
from sam_engine.images.image_header import unsupported
from sam_engine.images.pixels import composite, repeat_grey, to_rgb
from sam_engine.images.scaling import high_bits, low_bits_note, scale_to_eight_bits
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


def decode_tiff(data: bytes, config: DecodeConfig) -> tuple[np.ndarray, str | None]:
    """Return the first page as stored, (H, W, 3) uint8, and a note on its samples.

    Raises:
        ImageError: As `tiff_layout`; TOO_LARGE; UNSUPPORTED for samples without a range or colours.
    """
    layout = tiff_layout(data)
    colours = _colour_samples(layout, config)
    if layout.compression == JPEG or layout.compression in FAX:
        return _decode_with_pillow(data, layout, colours, config), None
    alpha = None if config.bands else layout.alpha
    _check_range(layout, alpha, config)
    with _without_warnings():
        samples = read_samples(data, layout, colours if alpha is None else (*colours, alpha), config)
    rgb, note = _to_rgb(samples[:, :, : len(colours)], layout, config)
    if alpha is None:
        return rgb, note
    rgba = np.concatenate([rgb, _opacity(samples[:, :, -1:], layout)], axis=2).tobytes()
    stored_as = "RGBa" if layout.premultiplied else "RGBA"
    image = Image.frombytes("RGBA", layout.size[::-1], rgba, "raw", stored_as)
    return composite(image, config.background), note


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep Pillow from warning of tags that play no part."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _decode_with_pillow(
    data: bytes, layout: TiffLayout, colours: tuple[int, ...], config: DecodeConfig
) -> np.ndarray:
    """Return what Pillow makes of JPEG and fax compression, (H, W, 3) uint8."""
    with _without_warnings(), TiffImagePlugin.TiffImageFile(io.BytesIO(without_orientation(data))) as image:
        rgb = to_rgb(image, config.background)
    if config.bands and layout.num_samples > 3:
        raise unsupported(f"TIFF with JPEG compression of {layout.num_samples} inks has no decode.bands")
    if config.bands and layout.num_samples == 3:
        rgb = np.ascontiguousarray(rgb[:, :, [colours[0], colours[len(colours) // 2], colours[-1]]])
    return rgb


def _check_range(layout: TiffLayout, alpha: int | None, config: DecodeConfig) -> None:
    """Raise UNSUPPORTED unless black, white and what is opaque are known."""
    kind = f"{layout.bits}-bit {layout.samples}"
    if config.scale is None and (layout.samples != "unsigned integer" or layout.bits > 16):
        advice = "decode.scale=min-max, percentiles or a range gives them one"
        raise unsupported(f"{kind} samples have no fixed range; {advice}")
    if alpha is not None and (
        layout.samples == "signed integer" or (layout.premultiplied and _is_deep(layout, config))
    ):
        raise unsupported(f"{kind} samples with transparency that decode.scale cannot stretch")


def _is_deep(layout: TiffLayout, config: DecodeConfig) -> bool:
    """Return whether ``decode.scale`` is set and applies."""
    scaled = layout.samples != "unsigned integer" or layout.bits > 8
    return config.scale is not None and scaled and layout.photometric not in (PALETTE, CMYK, YCBCR)


def _colour_samples(layout: TiffLayout, config: DecodeConfig) -> tuple[int, ...]:
    """Return which samples of a pixel are its colour.

    Raises:
        ImageError: UNSUPPORTED for bands of which nothing says what they are, or that there are not.
    """
    if config.bands:
        if max(config.bands) > layout.num_samples or layout.photometric == PALETTE:
            count = "a palette" if layout.photometric == PALETTE else f"{layout.num_samples} bands"
            raise unsupported(f"TIFF with {count}, and decode.bands={config.bands}")
        return tuple(band - 1 for band in config.bands)
    if layout.photometric == BLACK_IS_ZERO and layout.num_colours > 3:
        which = "and nothing says which are red, green and blue: set decode.bands, for example to [3,2,1]"
        raise unsupported(f"TIFF with {layout.num_colours} bands, {which}")
    return tuple(range(layout.num_colours))


def _to_rgb(samples: np.ndarray, layout: TiffLayout, config: DecodeConfig) -> tuple[np.ndarray, str | None]:
    """Return (H, W, 3) uint8 from the samples that are colour, (H, W, 1, 3 or 4), and a note."""
    if layout.photometric == PALETTE:
        colormap = np.array(layout.colormap[: 3 * 2**layout.bits]) // 256
        rgb: np.ndarray = colormap.reshape(3, -1).T.astype(np.uint8)[samples[:, :, 0]]
        return rgb, None
    if _is_deep(layout, config) and config.scale is not None:
        values, note = scale_to_eight_bits(samples, config.scale), None
    else:
        values, note = high_bits(samples, layout.bits), None
        if layout.photometric not in (CMYK, WHITE_IS_ZERO):
            note = low_bits_note(samples, layout.bits)
    if layout.photometric == WHITE_IS_ZERO:
        values = 255 - values
    if layout.photometric in (CMYK, YCBCR) and not config.bands:
        mode = "CMYK" if layout.photometric == CMYK else "YCbCr"
        image = Image.frombytes(mode, layout.size[::-1], values.tobytes())
        return np.array(image.convert("RGB")), note
    return repeat_grey(values[:, :, 0]) if values.shape[2] == 1 else np.ascontiguousarray(values), note


def _opacity(alpha: np.ndarray, layout: TiffLayout) -> np.ndarray:
    """Return transparency in [0, 255], uint8; of floats, 1 is opaque."""
    if layout.samples == "floating point":
        return np.rint(255 * np.clip(np.nan_to_num(alpha.astype(np.float64)), 0, 1)).astype(np.uint8)
    return high_bits(alpha, layout.bits)
