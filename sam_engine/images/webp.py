"""WebP: the canvas, and what is around it."""

import struct

from sam_engine.images.image_header import ImageHeader, corrupt, truncated
from sam_engine.images.orientation import choose_orientation


def webp_header(data: bytes) -> ImageHeader:
    """Read the canvas or the first frame's size."""
    if len(data) < 30:
        raise truncated(f"the file ends after {len(data)} bytes, inside the WebP header")
    name = data[12:16]
    if name == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif name == b"VP8L" and data[20] == 0x2F:
        packed = int.from_bytes(data[21:25], "little")
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    elif name == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        raise corrupt(f"WebP whose first chunk is {ascii(name)[2:-1]} with an unknown start")
    return ImageHeader(format="WebP", width=width, height=height)


def webp_orientation(data: bytes) -> int:
    """Return the orientation of a complete WebP.

    Raises:
        ImageError: TRUNCATED if the file is shorter than it says.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise truncated(f"the file ends after {len(data)} of {end} bytes")
    position, found = 12, {}
    while position + 8 <= end:
        name, length = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 8], "little"),
        )
        if name in (b"EXIF", b"XMP "):
            found[name] = data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    return choose_orientation(found.get(b"EXIF"), found.get(b"XMP "))
