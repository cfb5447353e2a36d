"""Which way up an image is, by the metadata it carries."""

import re

from PIL import Image

from sam_engine.errors import ImageError
from sam_engine.images.tiff_tags import (
    LONG,
    ORIENTATION,
    SHORT,
    SIGNED_BYTE,
    SIGNED_LONG,
    SIGNED_SHORT,
    read_tags,
)

_EXIF_TYPES = (SHORT, LONG, SIGNED_BYTE, SIGNED_SHORT, SIGNED_LONG)
"""What Pillow reads a number from: a BYTE is none to it."""
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def choose_orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """Return the EXIF orientation in [1, 8] that a file means; 1 for none, an invalid or a damaged one.

    EXIF decides if it has the tag, whatever its value; else XMP, as in Pillow's ``exif_transpose``.

    Args:
        exif: An EXIF block, or a TIFF.
        xmp: An XMP packet.
    """
    value = None if exif is None else _exif_value(exif)
    if value is None and xmp is not None and (match := _XMP_ORIENTATION.search(xmp)):
        value = int(match[1])
    return value if value is not None and 1 <= value <= 8 else 1


def _exif_value(exif: bytes) -> int | None:
    """Return what an EXIF block has for an orientation, 0 for what is none; None without one."""
    try:
        tags = read_tags(exif.removeprefix(b"Exif\x00\x00"), (ORIENTATION,), _EXIF_TYPES)
    except ImageError:
        return None
    value = tags.get(ORIENTATION)
    return None if value is None else value[0] if len(value) == 1 else 0


def raw_profile(text: bytes) -> bytes | None:
    """Return the EXIF block that ImageMagick wrote into a text of a PNG, in hexadecimal after three lines."""
    try:
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return None


def pillow_orientation(image: Image.Image) -> int:
    """Return the orientation of a loaded image as Pillow finds it; 1 for none or an invalid one."""
    value = image.getexif().get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
