"""JPEG: segments up to the first scan, and decoding with libjpeg-turbo."""

import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError
from sam_engine.images.image_header import ImageHeader, corrupt, one_line, truncated, unsupported
from sam_engine.images.orientation import choose_orientation
from sam_engine.structures import ImageStatus

MAX_SCANS = 500
"""Progressive JPEGs with more are refused: each scan costs a pass over all pixels."""

_SOF = range(0xC0, 0xD0)
_NOT_SOF = (0xC4, 0xC8, 0xCC)
_SCAN = 0xDA
_JPEG_LS = 0xF7
_XMP = b"http://ns.adobe.com/xap/1.0/\x00"
_TABLES = (0xC4, 0xDB, 0xDD)
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_READ = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}


def jpeg_header(data: bytes) -> ImageHeader:
    """Read the frame header and the orientation from the segments before the first scan."""
    exif, xmp, frame, sampling, position = None, None, None, [(1, 1)], 0
    for marker, position, body in _segments(data):
        if marker == 0xE1 and exif is None and body.startswith(b"Exif\x00\x00"):
            exif = body
        if marker == 0xE1 and body.startswith(_XMP):
            xmp = body
        if marker == _JPEG_LS:
            raise unsupported("JPEG-LS; only baseline and progressive JPEGs are read")
        if marker in _SOF and marker not in _NOT_SOF:
            if frame is not None:
                raise corrupt(f"second JPEG frame header at byte {position}")
            if marker not in _READ:
                raise unsupported(f"JPEG of kind SOF{marker - 0xC0}; only baseline and progressive are read")
            if len(body) < 6:
                raise corrupt(f"JPEG frame header of {len(body)} bytes at byte {position}")
            frame = struct.unpack_from(">BHHB", body)
            sampling = [(factors >> 4, factors & 15) for factors in body[7 : 7 + 3 * frame[3] : 3]]
    if frame is None:
        raise corrupt(f"JPEG scan at byte {position} without a frame header")
    precision, height, width, components = frame
    if precision != 8:
        raise unsupported(f"JPEG with {precision} bits per sample; only 8 are read")
    if len(sampling) < components or not all(0 < n <= 4 for pair in sampling for n in pair):
        raise corrupt(f"JPEG frame header with sampling factors {sampling} of {components} components")
    if components not in (1, 3, 4):
        raise unsupported(f"JPEG with {components} components; only 1, 3 and 4 are read")
    return ImageHeader(
        format="JPEG",
        width=width,
        height=height,
        orientation=choose_orientation(exif, xmp),
        components=components,
        num_blocks=_num_blocks(width, height, sampling),
    )


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield marker, position and body of each segment up to the first scan's; the position is the marker's.

    Raises:
        ImageError: CORRUPT or TRUNCATED if there is no scan, or a length makes no sense.
    """
    position = 2
    while True:
        # libjpeg skips what lies between segments with a warning, which the strict decoder refuses later.
        position = data.find(b"\xff", position)
        while position >= 0 and data[position : position + 1] == b"\xff":
            position += 1
        if position < 0 or position >= len(data):
            raise truncated(f"the file ends after {len(data)} bytes, inside the JPEG header")
        marker = data[position]
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            position += 1
            continue
        if marker == 0xD9:
            raise corrupt(f"the JPEG ends at byte {position} without a picture")
        if position + 3 > len(data):
            raise truncated(f"the file ends after {len(data)} bytes, inside the JPEG header")
        (length,) = struct.unpack_from(">H", data, position + 1)
        body = data[position + 3 : position + 1 + length]
        if length < 2:
            raise corrupt(f"JPEG segment of length {length} at byte {position}")
        if len(body) < length - 2:
            raise truncated(f"the file ends after {len(data)} bytes, inside the JPEG header")
        yield marker, position, body
        if marker == _SCAN:
            return
        position += 1 + length


def _clean_jpeg(data: bytes, components: int) -> bytes:
    """Return a JPEG reduced to what its pixels need: no profiles, comments, or junk between segments."""
    kept = [data[:2]]
    for marker, position, body in _segments(data):
        if marker == _SCAN:
            kept.append(data[position - 1 :])
        elif marker == 0xE0 and body.startswith(b"JFIF\x00"):
            kept.append(_JFIF)  # says that colours are YCbCr
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            usual = 1 if components == 3 else 2  # what libjpeg takes unknown numbers for
            kept.append(_ADOBE + bytes([body[11] if body[11] in (0, usual) else usual]))
        elif marker in _TABLES or (marker in _SOF and marker not in _NOT_SOF):
            kept.append(data[position - 1 : position + 3 + len(body)])
    return b"".join(kept)


def _num_blocks(width: int, height: int, sampling: list[tuple[int, int]]) -> int:
    """Return the blocks of all components of a JPEG, by their (horizontal, vertical) sampling factors."""
    widest, tallest = max(across for across, _ in sampling), max(down for _, down in sampling)
    return sum(
        -(-width * across // (8 * widest)) * -(-height * down // (8 * tallest)) for across, down in sampling
    )


def decode_jpeg(
    data: bytes, header: ImageHeader, config: DecodeConfig, buffer: NDArray[np.uint8] | None
) -> tuple[np.ndarray, str | None]:
    """Decode with libjpeg-turbo, its warnings taken as errors; a note instead, unless ``config.strict``."""
    scans = data.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise ImageError(ImageStatus.TOO_LARGE, f"JPEG with {scans} scans, at most {MAX_SCANS} are read")
    if 8 * len(data) < header.num_blocks:
        size = f"{header.width} x {header.height} pixels"
        raise truncated(f"the file ends after {len(data)} bytes, too few for a JPEG of {size}")
    colours, place = ("CMYK", None) if header.components == 4 else ("RGB", buffer)
    note = None
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, colours, buffer=place)
    except ValueError as error:
        problem = str(error)
        if "Premature end of JPEG file" in problem:
            problem = f"the file ends after {len(data)} bytes, inside the JPEG's pixels"
        if config.strict:
            raise truncated(problem) if problem != str(error) else error from None
        note = f"decoded leniently: {one_line(problem)}"
        clean = _clean_jpeg(data, header.components)
        pixels = simplejpeg.decode_jpeg(clean, colours, buffer=place, strict=False)
    if header.components == 4:
        ink = 255 - pixels  # Adobe's polarity, which everyone assumes
        pixels = np.array(Image.fromarray(ink, "CMYK").convert("RGB"))
    return pixels, note
