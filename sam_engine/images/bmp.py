"""BMP: header, completeness and colours in bit masks."""

import io
import struct

import numpy as np
from PIL import BmpImagePlugin, Image

from sam_engine.images.image_header import ImageHeader, corrupt, truncated, unsupported
from sam_engine.images.pixels import composite, to_rgb

_BITS = (1, 4, 8, 16, 24, 32)
_BIT_FIELDS = (3, 6)
_USUAL_MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def is_bare_bmp(data: bytes) -> bool:
    """Return whether this is a bitmap without the file header before it, as some .dib files are."""
    if len(data) < 40 or int.from_bytes(data[:4], "little") not in (40, 108, 124):
        return False
    planes, bits, compression = struct.unpack_from("<HHI", data, 12)
    return planes == 1 and bits in _BITS and compression in (0, *_BIT_FIELDS)


def with_file_header(data: bytes) -> bytes:
    """Return a BMP; a bare bitmap gets the file header that it lacks."""
    if data.startswith(b"BM"):
        return data
    size, bits, compression, used = (
        int.from_bytes(data[at:stop], "little") for at, stop in ((0, 4), (14, 16), (16, 20), (32, 36))
    )
    palette = 4 * (used or 2**bits) if bits <= 8 else 0
    masks = 12 if compression in _BIT_FIELDS and size == 40 else 0
    return b"BM" + struct.pack("<IHHI", 14 + len(data), 0, 0, 14 + size + masks + palette) + data


def bmp_header(data: bytes) -> ImageHeader:
    """Read the size, and refuse run-length and embedded coding."""
    data = with_file_header(data)
    if len(data) < 26:
        raise truncated(f"the file ends after {len(data)} bytes, inside the BMP header")
    data_offset, size = struct.unpack_from("<II", data, 10)
    if size == 12:
        width, height, _planes, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif size >= 40 and len(data) >= 54:
        width, height, _planes, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise corrupt(f"BMP with a header of {size} bytes in a file of {len(data)}")
    if compression not in (0, *_BIT_FIELDS):
        raise unsupported(f"BMP with compression {compression}; only uncompressed ones are read")
    if bits not in _BITS:
        raise corrupt(f"BMP with {bits} bits per pixel")
    if compression in _BIT_FIELDS:
        _read_masks(data, bits)
    return ImageHeader(format="BMP", width=width, height=abs(height), bits=bits, data_offset=data_offset)


def decode_bmp(data: bytes, header: ImageHeader, background: int) -> np.ndarray:
    """Return the pixels of a complete BMP, (H, W, 3) uint8.

    Raises:
        ImageError: TRUNCATED unless all rows are there.
    """
    data = with_file_header(data)
    check_bmp(data, header)
    size, _, height, _, bits, compression = struct.unpack_from("<IiiHHI", data, 14)
    if size < 40 or compression not in _BIT_FIELDS:
        with BmpImagePlugin.BmpImageFile(io.BytesIO(data)) as image:
            return to_rgb(image, background)
    row = (header.width * bits + 31) // 32 * (32 // bits)
    values = np.frombuffer(data, f"<u{bits // 8}", row * header.height, header.data_offset)
    values = values.reshape(header.height, row)[:: -1 if height > 0 else 1, : header.width]
    channels = [_channel(values, mask) for mask in _read_masks(data, bits) if mask]
    pixels = np.stack(channels, axis=2)
    return pixels if len(channels) == 3 else composite(Image.fromarray(pixels, "RGBA"), background)


def _read_masks(data: bytes, bits: int) -> tuple[int, ...]:
    """Return which bits of a pixel are red, green, blue and alpha; 0 for no alpha.

    Raises:
        ImageError: TRUNCATED; UNSUPPORTED for bits that do not lie together.
    """
    (size,) = struct.unpack_from("<I", data, 14)
    count = 4 if size >= 56 else 3
    if len(data) < 54 + 4 * count:
        raise truncated(f"the file ends after {len(data)} bytes, inside the BMP header")
    masks = struct.unpack_from(f"<{count}I", data, 54)
    if bits == 32 and not any(masks[:3]):
        masks = _USUAL_MASKS[:count]
    runs = [bin(mask)[2:].rstrip("0") for mask in masks]
    if bits not in (16, 32) or not all(masks[:3]) or any("0" in run or len(run) > 16 for run in runs):
        raise unsupported(f"BMP with {bits} bits per pixel and colours in {', '.join(map(hex, masks))}")
    return (*masks, 0)[:4]


def _channel(values: np.ndarray, mask: int) -> np.ndarray:
    """Return one colour of packed pixels, (H, W) uint8, stretched over [0, 255]."""
    lowest = (mask & -mask).bit_length() - 1
    channel = (values & mask) >> lowest
    return (channel.astype(np.uint32) * 255 // (mask >> lowest)).astype(np.uint8)


def check_bmp(data: bytes, header: ImageHeader) -> None:
    """Raise `ImageError` TRUNCATED unless all rows of the BMP are there."""
    end = header.data_offset + (header.width * header.bits + 31) // 32 * 4 * header.height
    if end > len(data):
        raise truncated(f"the file ends after {len(data)} of {end} bytes")
