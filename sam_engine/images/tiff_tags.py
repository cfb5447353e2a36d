"""The directory of a TIFF or EXIF block, read in plain Python."""

import struct

from sam_engine.images.image_header import corrupt, truncated

ORIENTATION = 274
_TYPE_BYTES = {1: 1, 3: 2, 4: 4}


def read_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return the unsigned integer tags of the first directory of a TIFF or EXIF block."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(data[:4])
    if order is None:
        raise corrupt("TIFF directory without a byte order mark")
    try:
        (ifd,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, ifd)
        tags = {}
        for entry in range(ifd + 2, ifd + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
            size = _TYPE_BYTES.get(kind)
            if size is None:
                continue
            offset = entry + 8
            if size * number > 4:
                (offset,) = struct.unpack_from(f"{order}I", data, offset)
            if offset + size * number <= len(data):
                tags[tag] = struct.unpack_from(f"{order}{number}{'BHxI'[size - 1]}", data, offset)
    except struct.error:
        raise truncated(f"the file ends after {len(data)} bytes, inside the TIFF directory") from None
    return tags
