"""GIF: how large the canvas is, and whether the first frame is whole."""

import io
import struct

import numpy as np
from PIL import GifImagePlugin

from sam_engine.images.image_header import ImageHeader, corrupt, truncated
from sam_engine.images.orientation import pillow_orientation
from sam_engine.images.pixels import to_rgb

_EXTENSION, _FRAME, _END = 0x21, 0x2C, 0x3B


def gif_header(data: bytes) -> ImageHeader:
    """Read the size of the canvas, which Pillow enlarges where the first frame does not fit."""
    if len(data) < 13:
        raise truncated(f"the file ends after {len(data)} bytes, inside the GIF header")
    width, height = struct.unpack_from("<HH", data, 6)
    x, y, frame_width, frame_height = struct.unpack_from("<HHHH", data, _first_frame(data) + 1)
    return ImageHeader(format="GIF", width=max(width, x + frame_width), height=max(height, y + frame_height))


def decode_gif(data: bytes, background: int) -> tuple[np.ndarray, int]:
    """Return the first frame on its canvas, (H, W, 3) uint8, and its orientation.

    Raises:
        ImageError: TRUNCATED if the file ends inside that frame.
    """
    frame = _first_frame(data)
    _skip_blocks(data, frame + 10 + _palette_bytes(data[frame + 9]) + 1)
    with GifImagePlugin.GifImageFile(io.BytesIO(data)) as image:
        return to_rgb(image, background), pillow_orientation(image)


def _first_frame(data: bytes) -> int:
    """Return where the first frame's descriptor lies, all of it in the file."""
    position = 13 + _palette_bytes(data[10])
    while position < len(data):
        kind = data[position]
        if kind == _FRAME:
            if position + 11 > len(data):
                break
            return position
        if kind == _END:
            raise corrupt(f"the GIF ends at byte {position} without a picture")
        if kind != _EXTENSION:
            raise corrupt(f"GIF block of kind {kind} at byte {position}")
        position = _skip_blocks(data, position + 2)
    raise truncated(f"the file ends after {len(data)} bytes, before the GIF's first frame")


def _palette_bytes(flags: int) -> int:
    """Return the length of the palette that follows flags."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_blocks(data: bytes, position: int) -> int:
    """Return the position after a chain of blocks."""
    while position < len(data):
        length = data[position]
        position += 1 + length
        if length == 0:
            return position
    raise truncated(f"the file ends after {len(data)} bytes, inside a block of the GIF")
