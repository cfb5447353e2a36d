"""Image headers, read in plain Python before any decoder sees the file.

Every function works on untrusted bytes: offsets are checked before they are used, nothing is allocated by a
length found in the file, and damage becomes an `ImageError` that says where.
"""

from sam_engine.images.bmp import bmp_header
from sam_engine.images.image_header import ImageHeader, unsupported
from sam_engine.images.jpeg import jpeg_header
from sam_engine.images.png import png_header
from sam_engine.images.tiff import tiff_header
from sam_engine.images.webp import webp_header

SUPPORTED = "JPEG, PNG, WebP, TIFF or BMP"

_KNOWN_BUT_UNREAD = (
    (0, b"GIF8", "a GIF"),
    (0, b"%!PS", "PostScript"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"II+\x00", "a BigTIFF"),
    (0, b"MM\x00+", "a BigTIFF"),
    (0, b"\x1f\x8b", "gzip data"),
    (0, b"PK\x03\x04", "a zip archive"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyp", "a video"),
    (0, b"version https://git-lfs", "a Git LFS pointer: the image itself was not downloaded"),
)

_EMPTY = "the file is empty"
_MARKUP = "markup (HTML, XML or SVG)"
_NO_IMAGE = "not an image"
_NO_IMAGES = (
    *(_EMPTY, _MARKUP, _NO_IMAGE),
    *("PostScript", "a PDF", "gzip data", "a zip archive", "a video", "a Git LFS pointer"),
)


def says_no_image(error: str) -> bool:
    """Return whether the error of an UNSUPPORTED image says that it is none, not even of another kind."""
    return error.startswith(_NO_IMAGES)


def read_header(data: bytes) -> ImageHeader:
    """Return the size and orientation of an image, told by its first bytes and never by its name.

    Raises:
        ImageError: UNSUPPORTED if it is none of the formats read, TRUNCATED or CORRUPT if the header is.
    """
    if not data:
        raise unsupported(f"{_EMPTY} (0 bytes)")
    if data.startswith(b"\xff\xd8\xff"):
        return jpeg_header(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return png_header(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return webp_header(data)
    if data.startswith((b"II*\x00", b"MM\x00*")):
        return tiff_header(data)
    if data.startswith(b"BM"):
        return bmp_header(data)
    for offset, magic, name in _KNOWN_BUT_UNREAD:
        if data.startswith(magic, offset):
            raise unsupported(f"{name}, not {SUPPORTED}")
    if data.lstrip()[:1] == b"<":
        raise unsupported(f"{_MARKUP}, not {SUPPORTED}")
    raise unsupported(f"{_NO_IMAGE}: starts with {data[:8].hex(' ')}, not with the mark of {SUPPORTED}")
