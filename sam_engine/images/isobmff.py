"""The boxes of AVIF and HEIC files, read in plain Python before any decoder sees them."""

import struct
from collections.abc import Iterator

from sam_engine.images.image_header import truncated, unsupported

_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}
"""Boxes that are looked into, and how many bytes precede their content."""
_MAX_BRANDS_BYTES = 256


def brands(data: bytes) -> tuple[bytes, ...]:
    """Return the major brand and the compatible ones; nothing without a file type box at the start."""
    if data[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(data[:4]), _MAX_BRANDS_BYTES)
    return data[8:12], *(data[at : at + 4] for at in range(16, end, 4))


def largest_picture(data: bytes, kind: str) -> tuple[int, int]:
    """Return (W, H) of the largest picture in the file, which is the whole where there are tiles.

    Raises:
        ImageError: TRUNCATED if a box goes beyond the end of the file, UNSUPPORTED if no box has a size.
    """
    sizes = [
        struct.unpack_from(">II", data, start + 4)
        for name, start, end in _boxes(data, 0, len(data), kind)
        if name == b"ispe" and end - start >= 12
    ]
    if not sizes:
        raise unsupported(f"{kind} whose container names no size")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return width, height


def _boxes(data: bytes, start: int, end: int, kind: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of boxes, and of those inside the ones looked into."""
    while start + 8 <= end:
        length, name = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if length == 1 and start + 16 <= end:
            (length,) = struct.unpack_from(">Q", data, content)
            content += 8
        stop = end if length == 0 else start + length
        if stop > end or stop < content:
            raise truncated(
                f"the file ends after {len(data)} bytes, inside box {ascii(name)[1:]} of the {kind}"
            )
        yield name, content, stop
        if name in _CONTAINERS:
            yield from _boxes(data, content + _CONTAINERS[name], stop, kind)
        start = stop
