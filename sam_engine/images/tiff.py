"""TIFF: size and completeness of the first page."""

import struct

from sam_engine.images.image_header import ImageHeader, corrupt, truncated
from sam_engine.images.orientation import read_orientation
from sam_engine.images.tiff_tags import ORIENTATION, read_tags

_WIDTH, _HEIGHT = 256, 257
_DATA_TAGS = ((273, 279), (324, 325))


def tiff_header(data: bytes) -> ImageHeader:
    """Read size and orientation from the first directory."""
    tags = read_tags(data)
    size = [tags.get(tag, ()) for tag in (_WIDTH, _HEIGHT)]
    if any(len(value) != 1 for value in size):
        raise corrupt("TIFF without a width and a height")
    return ImageHeader(format="TIFF", width=size[0][0], height=size[1][0], orientation=read_orientation(data))


def clean_tiff(data: bytes) -> bytes:
    """Return a TIFF whose pixels are all there, its orientation set to 1.

    Pillow turns TIFFs by itself while it loads them, and no other format: here turning is left to one rule.

    Raises:
        ImageError: TRUNCATED if a strip or tile lies beyond the end of the file.
    """
    tags = read_tags(data)
    for offsets, lengths in _DATA_TAGS:
        end = max(
            (sum(pair) for pair in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False)), default=0
        )
        if end > len(data):
            raise truncated(f"the file ends after {len(data)} bytes, its pixels at byte {end}")
    if ORIENTATION not in tags:
        return data
    order = "<" if data[:2] == b"II" else ">"
    (ifd,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, ifd)
    patched = bytearray(data)
    for entry in range(ifd + 2, ifd + 2 + 12 * count, 12):
        if struct.unpack_from(f"{order}H", data, entry)[0] == ORIENTATION:
            struct.pack_into(f"{order}HIHH", patched, entry + 2, 3, 1, 1, 0)
    return bytes(patched)
