"""AVIF: sizes from the container's boxes, read in plain Python; decoding by Pillow's libavif."""

import io
import struct
import threading
from collections.abc import Iterator

import numpy as np
from PIL import AvifImagePlugin

from sam_engine.images.image_header import ImageHeader, truncated, unsupported
from sam_engine.images.orientation import pillow_orientation
from sam_engine.images.pixels import to_rgb

_BRANDS = (b"avif", b"avis")
_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}
"""Boxes that are looked into, and how many bytes precede their content."""
_threads_lock = threading.Lock()


def is_avif(data: bytes) -> bool:
    """Return whether the file type box names AVIF."""
    if data[4:8] != b"ftyp":
        return False
    length = int.from_bytes(data[:4])
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, min(length, 256), 4))]
    return brands[0] in (*_BRANDS, b"mif1", b"msf1") and any(brand in _BRANDS for brand in brands)


def avif_header(data: bytes) -> ImageHeader:
    """Return the size of the largest picture in the file, which is the whole where there are tiles.

    Raises:
        ImageError: TRUNCATED if a box goes beyond the end of the file, UNSUPPORTED if no box has a size.
    """
    sizes = [
        struct.unpack_from(">II", data, start + 4)
        for name, start, end in _boxes(data, 0, len(data))
        if name == b"ispe" and end - start >= 12
    ]
    if not sizes:
        raise unsupported("AVIF whose container names no size")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return ImageHeader(format="AVIF", width=width, height=height)


def decode_avif(data: bytes, background: int) -> tuple[np.ndarray, int]:
    """Return the first picture as stored, (H, W, 3) uint8, and its orientation."""
    if not AvifImagePlugin.SUPPORTED:
        raise unsupported("AVIF, which this build of Pillow does not read")
    with _threads_lock:
        before = AvifImagePlugin.DEFAULT_MAX_THREADS
        AvifImagePlugin.DEFAULT_MAX_THREADS = (
            1  # or as many as the machine has cores, in each decoding thread
        )
        try:
            image = AvifImagePlugin.AvifImageFile(io.BytesIO(data))
        finally:
            AvifImagePlugin.DEFAULT_MAX_THREADS = before
    with image:
        return to_rgb(image, background), pillow_orientation(image)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
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
                f"the file ends after {len(data)} bytes, inside box {ascii(name)[1:]} of the AVIF"
            )
        yield name, content, stop
        if name in _CONTAINERS:
            yield from _boxes(data, content + _CONTAINERS[name], stop)
        start = stop
