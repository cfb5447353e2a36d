"""File bytes to upright RGB pixels, or one line that says why not.

The table of formats, modes, caps and statuses is in docs/images.md. The order matters: magic bytes, then the
header, then the caps, then the decoder. No path ever reaches a decoder.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, WebPImagePlugin

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError
from sam_engine.images.avif import decode_avif
from sam_engine.images.bmp import decode_bmp
from sam_engine.images.gif import decode_gif
from sam_engine.images.headers import read_header
from sam_engine.images.heic import decode_heic
from sam_engine.images.image_header import ImageHeader, corrupt, one_line
from sam_engine.images.jpeg import decode_jpeg
from sam_engine.images.pixels import to_rgb
from sam_engine.images.png import decode_png
from sam_engine.images.tiff_pixels import decode_tiff
from sam_engine.images.webp import webp_orientation
from sam_engine.structures import ImageStatus


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """One image, ready for the model."""

    pixels: np.ndarray
    """(H, W, 3) uint8 RGB, contiguous, writable, upright."""
    exif_orientation: int
    """The EXIF orientation that was applied to the stored pixels; 1 where none was."""
    note: str | None = None
    """What a reader of the pixels should know, in a line: that a damaged file was decoded leniently, or that
    deep samples use only their low bits."""


def decode_image(data: bytes, config: DecodeConfig, buffer: NDArray[np.uint8] | None = None) -> DecodedImage:
    """Return the pixels of an image file, upright, in 8-bit RGB.

    Args:
        data: The whole file.
        config: Caps and rules.
        buffer: Flat room for all pixels that ``config`` allows. Decoders that can will put them there; if one
            does, the pixels returned lie in it.

    Raises:
        ImageError: UNSUPPORTED, TOO_LARGE, TRUNCATED, CORRUPT or OOM, with one line that says what and where.
    """
    header = read_header(data)
    _check_caps(header, config)
    try:
        stored, orientation, note = _decode(data, header, config, buffer)
    except ImageError:
        raise
    except MemoryError:
        message = f"out of memory while decoding {header.width} x {header.height} pixels"
        raise ImageError(ImageStatus.OOM, message) from None
    except Image.DecompressionBombError as error:
        raise ImageError(ImageStatus.TOO_LARGE, one_line(str(error))) from None
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises on bad bytes belongs into that image's row
        raise corrupt(f"{header.format} decoder: {one_line(str(error)) or type(error).__name__}") from None
    size = (header.height, header.width)
    turned = header.format == "HEIC" and stored.shape[:2] == size[::-1]  # by its decoder
    if stored.shape != (*size, 3) and not turned:
        raise corrupt(f"{header.format} header says {header.width} x {header.height}, pixels {stored.shape}")
    orientation = orientation if config.exif else 1
    return DecodedImage(pixels=turn_upright(stored, orientation), exif_orientation=orientation, note=note)


FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
"""EXIF orientation -> OpenCV's flip code, after the transposition of 5 to 8."""


def turn_upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Return stored pixels as they are meant to be seen.

    Args:
        stored: (H, W, 3) uint8, as in the file.
        orientation: EXIF orientation in [1, 8].

    Returns:
        Contiguous (H, W, 3) for orientations 1 to 4, (W, H, 3) for 5 to 8.
    """
    import cv2  # late: readers and exporters use this module and start at once

    # OpenCV copies in blocks: up to 8 times as fast as numpy on transposed and mirrored views.
    if orientation >= 5:
        stored = cv2.transpose(stored)
    if orientation in FLIPS:
        stored = cv2.flip(stored, FLIPS[orientation])
    return np.ascontiguousarray(stored)


def _check_caps(header: ImageHeader, config: DecodeConfig) -> None:
    """Raise `ImageError` for sizes that are nothing or too much."""
    width, height = header.width, header.height
    if width < 1 or height < 1:
        raise corrupt(f"{header.format} header says {width} x {height} pixels")
    if max(width, height) > config.max_side:
        message = f"{width} x {height} pixels: a side is longer than decode.max_side={config.max_side}"
        raise ImageError(ImageStatus.TOO_LARGE, message)
    if width * height > config.max_pixels:
        message = f"{width} x {height} pixels are more than decode.max_pixels={config.max_pixels}"
        raise ImageError(ImageStatus.TOO_LARGE, message)


def _decode(
    data: bytes, header: ImageHeader, config: DecodeConfig, buffer: NDArray[np.uint8] | None
) -> tuple[np.ndarray, int, str | None]:
    """Return pixels as stored, (H, W, 3) uint8, the orientation, and a note on damage."""
    # The plugin classes are used directly: Image.open() would guess the format and warn about large images.
    if header.format == "JPEG":
        pixels, note = decode_jpeg(data, header, config, buffer)
        return pixels, header.orientation, note
    if header.format == "PNG":
        return decode_png(data, header, config)
    if header.format == "WebP":
        orientation = webp_orientation(data)
        with WebPImagePlugin.WebPImageFile(io.BytesIO(data)) as image:
            return to_rgb(image, config.background), orientation, None
    if header.format == "TIFF":
        pixels, note = decode_tiff(data, config)
        return pixels, header.orientation, note
    if header.format in ("GIF", "AVIF"):
        decode = decode_gif if header.format == "GIF" else decode_avif
        pixels, orientation = decode(data, config.background)
        return pixels, orientation, None
    if header.format == "HEIC":
        return decode_heic(data, config.background), 1, None
    return decode_bmp(data, header, config.background), 1, None
