"""PNG: the header, and the chunks that make pixels."""

import struct
import zlib

from sam_engine.images.image_header import ImageHeader, corrupt, truncated, unsupported
from sam_engine.images.orientation import read_orientation

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_DEFLATE_MAX_RATIO = 1032


def png_header(data: bytes) -> ImageHeader:
    """Read IHDR; orientation is found by `clean_png`."""
    if len(data) < 33:
        raise truncated(f"the file ends after {len(data)} bytes, inside the PNG header")
    length, name, width, height, bits, color, compression, filtering, interlace = struct.unpack_from(
        ">I4sIIBBBBB", data, 8
    )
    if name == b"CgBI":
        raise unsupported("a PNG as Xcode rewrites them for iPhones (CgBI); take the original")
    if name != b"IHDR" or length != 13:
        raise corrupt("the PNG does not start with IHDR")
    if bits not in _DEPTHS.get(color, ()) or compression or filtering or interlace > 1:
        raise corrupt(f"PNG header with colour type {color}, {bits} bits, interlace {interlace}")
    return ImageHeader(format="PNG", width=width, height=height, components=_CHANNELS[color], bits=bits)


def clean_png(data: bytes, header: ImageHeader) -> tuple[bytes, int]:
    """Return the PNG reduced to what its pixels need, all checksums verified, and its orientation.

    Text, colour profiles and animation frames are dropped unread, so that none of them can inflate.

    Raises:
        ImageError: TRUNCATED or CORRUPT, naming the chunk.
    """
    view = memoryview(data)
    kept, pixel_bytes, orientation, position = [view[:8]], 0, 1, 8
    while True:
        if position + 8 > len(data):
            raise truncated(f"the file ends after {len(data)} bytes, before the PNG's end mark")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise truncated(f"the file ends after {len(data)} bytes, inside PNG chunk {ascii(name)[1:]}")
        if name in _KEPT:
            if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
                raise corrupt(f"wrong checksum of PNG chunk {name.decode()} at byte {position}")
            kept.append(view[position:end])
            pixel_bytes += length if name == b"IDAT" else 0
        elif name == b"eXIf":
            orientation = read_orientation(bytes(view[position + 8 : end - 4]))
        position = end
        if name == b"IEND":
            break
    raw_bytes = header.width * header.height * header.components * header.bits // 8
    if pixel_bytes * _DEFLATE_MAX_RATIO < raw_bytes:
        raise corrupt(
            f"{pixel_bytes} bytes of pixel data cannot fill {header.width} x {header.height} pixels"
        )
    return b"".join(kept), orientation
