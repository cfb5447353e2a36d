"""BMP: header and completeness."""

import struct

from sam_engine.images.image_header import ImageHeader, corrupt, truncated, unsupported


def bmp_header(data: bytes) -> ImageHeader:
    """Read the size, and refuse run-length and embedded coding."""
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
    if compression not in (0, 3, 6):
        raise unsupported(f"BMP with compression {compression}; only uncompressed ones are read")
    if bits not in (1, 4, 8, 16, 24, 32):
        raise corrupt(f"BMP with {bits} bits per pixel")
    return ImageHeader(format="BMP", width=width, height=abs(height), bits=bits, data_offset=data_offset)


def check_bmp(data: bytes, header: ImageHeader) -> None:
    """Raise `ImageError` TRUNCATED unless all rows of the BMP are there."""
    end = header.data_offset + (header.width * header.bits + 31) // 32 * 4 * header.height
    if end > len(data):
        raise truncated(f"the file ends after {len(data)} of {end} bytes")
