"""Writes TIFFs of any layout from samples that are known, to compare readers by."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

NONE, LZW, JPEG, DEFLATE, PACKBITS = 1, 5, 7, 8, 32773
_FORMATS = {"u": 1, "i": 2, "f": 3}


def write_tiff(
    samples: np.ndarray,
    *,
    photometric: int,
    bits: int | None = None,
    planar: bool = False,
    compression: int = NONE,
    predictor: int = 1,
    tile: tuple[int, int] | None = None,
    rows_per_strip: int | None = None,
    extra: tuple[int, ...] | None = None,
    order: str = "<",
    reversed_bits: bool = False,
    tags: dict[int, tuple[int, tuple[int, ...]]] | None = None,
) -> bytes:
    """Return a TIFF of one page.

    Args:
        samples: (H, W, S).
        photometric: As in the tag.
        bits: Of each sample; those of the array's type if None.
        planar: Write one sample after the other.
        compression: NONE, LZW, DEFLATE or PACKBITS.
        predictor: 1, 2, or 3 for floats.
        tile: (H, W) of tiles; strips if None.
        rows_per_strip: All in one if None.
        extra: The ExtraSamples tag; left out if None.
        order: < or >.
        reversed_bits: Write the lowest bit of each byte first.
        tags: More tags: number to (type, values).
    """
    height, width, count = samples.shape
    bits = bits or samples.dtype.itemsize * 8
    planes = [samples[:, :, [i]] for i in range(count)] if planar else [samples]
    rows, columns = tile or (rows_per_strip or height, width)
    chunks = []
    for plane in planes:
        for y in range(0, height, rows):
            for x in range(0, width, columns):
                part = plane[y : y + rows, x : x + columns]
                if tile:
                    padding = [(0, rows - part.shape[0]), (0, columns - part.shape[1]), (0, 0)]
                    part = np.pad(part, padding, mode="edge")
                raw = _compress(_rows(part, bits, predictor, order), compression)
                chunks.append(_reverse(raw) if reversed_bits else raw)
    entries = {
        256: (4, (width,)),
        257: (4, (height,)),
        258: (3, (bits,) * count),
        259: (3, (compression,)),
        262: (3, (photometric,)),
        277: (3, (count,)),
        284: (3, (2 if planar else 1,)),
        339: (3, (_FORMATS[samples.dtype.kind],) * count),
    }
    entries |= {317: (3, (predictor,))} if predictor > 1 else {}
    entries |= {338: (3, extra)} if extra is not None else {}
    entries |= {266: (3, (2,))} if reversed_bits else {}
    lengths = (4, tuple(len(chunk) for chunk in chunks))
    if tile:
        entries |= {322: (4, (columns,)), 323: (4, (rows,)), 324: lengths, 325: lengths}
    else:
        entries |= {273: lengths, 278: (4, (rows,)), 279: lengths}
    return _assemble(entries | (tags or {}), chunks, order, 324 if tile else 273)


def _assemble(
    entries: dict[int, tuple[int, tuple[int, ...]]], chunks: list[bytes], order: str, at: int
) -> bytes:
    """Return directory, long values and chunks as a file; offsets are put in at tag ``at``."""
    sizes = {1: 1, 3: 2, 4: 4, 7: 1}

    def long_bytes(tag: int) -> int:
        kind, values = entries[tag]
        size = sizes[kind] * len(values)
        return size + size % 2 if size > 4 else 0

    place = 8 + 2 + 12 * len(entries) + 4
    first = place + sum(map(long_bytes, entries))
    starts = np.cumsum([first, *(len(chunk) for chunk in chunks[:-1])]).tolist()
    entries = {**entries, at: (4, tuple(starts))}
    directory, values_block = b"", b""
    for tag in sorted(entries):
        kind, values = entries[tag]
        body = struct.pack(f"{order}{len(values)}{'BHxI'[sizes[kind] - 1]}", *values)
        if len(body) > 4:
            directory += struct.pack(f"{order}HHII", tag, kind, len(values), place + len(values_block))
            values_block += body + bytes(len(body) % 2)
        else:
            directory += struct.pack(f"{order}HHI", tag, kind, len(values)) + body.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}IH", 8, len(entries)) + directory + bytes(4)
    return b"".join((head, values_block, *chunks))


def _rows(part: np.ndarray, bits: int, predictor: int, order: str) -> np.ndarray:
    """Return (H, bytes of a row) uint8."""
    height = part.shape[0]
    if predictor == 2:
        part = np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1]))
    if predictor == 3:
        size, spp = part.dtype.itemsize, part.shape[2]
        big = np.ascontiguousarray(part).astype(part.dtype.newbyteorder(">")).view(np.uint8)
        planes = np.moveaxis(big.reshape(height, -1, size), 2, 1).reshape(height, -1)  # by significance
        steps = planes.reshape(height, -1, spp)
        return np.diff(steps, axis=1, prepend=np.zeros_like(steps[:, :1])).reshape(height, -1)
    if bits == part.dtype.itemsize * 8:
        ordered = np.ascontiguousarray(part).astype(part.dtype.newbyteorder(order))
        return ordered.reshape(height, -1).view(np.uint8)
    values = part.reshape(height, -1, 1).astype(np.uint32)
    every = (values >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(every.reshape(height, -1).astype(np.uint8), axis=1)


def _compress(rows: np.ndarray, compression: int) -> bytes:
    """Return the bytes of one chunk."""
    if compression == NONE:
        return rows.tobytes()
    if compression == DEFLATE:
        return zlib.compress(rows.tobytes(), 1)
    # libtiff packs the same bytes as one strip of an 8-bit grey picture
    buffer = io.BytesIO()
    name = {LZW: "tiff_lzw", PACKBITS: "packbits"}[compression]
    Image.fromarray(rows).save(buffer, "TIFF", compression=name, tiffinfo={278: rows.shape[0]})
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        offsets, lengths = image.tag_v2[273], image.tag_v2[279]
    assert len(offsets) == 1
    return buffer.getvalue()[offsets[0] :][: lengths[0]]


def _reverse(raw: bytes) -> bytes:
    """Return bytes with their bits in the other order."""
    bits = np.unpackbits(np.frombuffer(raw, np.uint8)[:, None], axis=1, bitorder="little")
    return np.packbits(bits, axis=1).tobytes()
