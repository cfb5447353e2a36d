"""The directory of a TIFF or EXIF block, read in plain Python."""

import struct
from collections.abc import Collection

from sam_engine.images.image_header import corrupt, truncated, unsupported

ORIENTATION = 274
MAX_VALUES = 2**22
"""Of one tag: a picture of 32,768 x 32,768 pixels in tiles of 16 x 16."""

BYTE, SHORT, LONG, SIGNED_BYTE, UNDEFINED, SIGNED_SHORT, SIGNED_LONG = 1, 3, 4, 6, 7, 8, 9
UNSIGNED = (BYTE, SHORT, LONG, UNDEFINED)

_FORMATS = {
    BYTE: "B", SHORT: "H", LONG: "I", SIGNED_BYTE: "b", UNDEFINED: "B", SIGNED_SHORT: "h", SIGNED_LONG: "i",
}  # fmt: skip


def read_tags(
    data: bytes, wanted: Collection[int], types: Collection[int] = UNSIGNED
) -> dict[int, tuple[int, ...]]:
    """Return some of the integer tags of the first directory of a TIFF or EXIF block.

    A tag of another type, or whose values lie beyond the end, has none.

    Args:
        data: From its byte order mark on.
        wanted: Numbers of the tags that are looked for; no other is read.
        types: That their values may have.

    Raises:
        ImageError: CORRUPT or TRUNCATED; UNSUPPORTED for more values than `MAX_VALUES`.
    """
    order = byte_order(data)
    try:
        (ifd,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, ifd)
        tags: dict[int, tuple[int, ...]] = {}
        for entry in range(ifd + 2, ifd + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
            if tag not in wanted:
                continue
            tags[tag] = ()
            if kind not in types:
                continue
            size = struct.calcsize(_FORMATS[kind])
            offset = entry + 8
            if size * number > 4:
                (offset,) = struct.unpack_from(f"{order}I", data, offset)
            if offset + size * number <= len(data):
                if number > MAX_VALUES:
                    raise unsupported(f"TIFF tag {tag} has {number} values; at most {MAX_VALUES} are read")
                tags[tag] = struct.unpack_from(f"{order}{number}{_FORMATS[kind]}", data, offset)
    except struct.error:
        raise truncated(f"the file ends after {len(data)} bytes, inside the TIFF directory") from None
    return tags


def byte_order(data: bytes) -> str:
    """Return < or > as `struct` has them.

    Raises:
        ImageError: CORRUPT if the mark is missing.
    """
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(data[:4])
    if order is None:
        raise corrupt("TIFF directory without a byte order mark")
    return order
