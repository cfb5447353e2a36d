"""Image headers, read in plain Python before any decoder sees the file.

Every function works on untrusted bytes: offsets are checked before they are used, nothing is allocated by a
length found in the file, and damage becomes an `ImageError` that says where.
"""

from sam_engine.images.avif import avif_header, is_avif
from sam_engine.images.bmp import bmp_header, is_bare_bmp
from sam_engine.images.gif import gif_header
from sam_engine.images.heic import heic_header, is_readable_heic
from sam_engine.images.image_header import ImageHeader, unsupported
from sam_engine.images.jpeg import jpeg_header
from sam_engine.images.kinds import EMPTY, NO_IMAGE, READ, name_of_kind
from sam_engine.images.png import png_header
from sam_engine.images.tiff import tiff_header
from sam_engine.images.webp import webp_header


def read_header(data: bytes) -> ImageHeader:
    """Return the size and orientation of an image, told by its first bytes and never by its name.

    Raises:
        ImageError: UNSUPPORTED if it is none of the formats read, TRUNCATED or CORRUPT if the header is.
    """
    if not data:
        raise unsupported(f"{EMPTY} (0 bytes)")
    if data.startswith(b"\xff\xd8\xff"):
        return jpeg_header(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return png_header(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return webp_header(data)
    if data.startswith((b"II*\x00", b"MM\x00*")):
        return tiff_header(data)
    if data.startswith(b"BM") or is_bare_bmp(data):
        return bmp_header(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return gif_header(data)
    if is_avif(data):
        return avif_header(data)
    if is_readable_heic(data):
        return heic_header(data)
    kind = name_of_kind(data)
    if kind is not None:
        raise unsupported(f"{kind}, not {READ}")
    raise unsupported(f"{NO_IMAGE}: starts with {data[:8].hex(' ')}, not with the mark of {READ}")
