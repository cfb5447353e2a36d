"""The samples of a TIFF, as numbers: chunks unpacked, predictors undone, planes put together.

zlib unpacks Deflate, libtiff LZW and the like. It is shown all chunks of one shape as the strips of one grey
8-bit picture, so that it hands over bytes: which width and kind of samples they are is decided here.
"""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import TiffImagePlugin

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError
from sam_engine.images.image_header import corrupt
from sam_engine.images.tiff import DEFLATE, UNCOMPRESSED, TiffLayout, chunk_rows
from sam_engine.structures import ImageStatus

MAX_SAMPLE_BYTES = 8
"""Per pixel that is allowed, of the samples that are used, and of one chunk with all its samples."""
_GROUP_BYTES = 16 * 2**20
_MORE_BYTES = 2**16
_REVERSED = np.packbits(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), axis=1
)
_KINDS = {"unsigned integer": "u", "signed integer": "i", "floating point": "f"}


def read_samples(data: bytes, layout: TiffLayout, chosen: Sequence[int], config: DecodeConfig) -> np.ndarray:
    """Return some of the samples of each pixel.

    Args:
        data: The whole file.
        layout: Of its first page.
        chosen: Which samples, counted from 0.
        config: Its caps limit the memory used.

    Returns:
        (H, W, len(chosen)) of the file's own type in this machine's byte order; samples of less than 8 bits
        are uint8, of 10, 12 and 14 uint16.

    Raises:
        ImageError: TOO_LARGE.
    """
    height, width = layout.size
    dtype = sample_type(layout)
    used, chunk = height * width * len(chosen) * dtype.itemsize, layout.row_bytes * layout.chunk_size[0]
    if max(used, chunk) > max(MAX_SAMPLE_BYTES * config.max_pixels, _GROUP_BYTES):
        message = f"{max(used, chunk)} bytes of samples are more than {MAX_SAMPLE_BYTES} x decode.max_pixels"
        raise ImageError(ImageStatus.TOO_LARGE, f"{message}={config.max_pixels}")
    samples = np.empty((height, width, len(chosen)), dtype)
    rows, columns = layout.grid
    for place, plane in enumerate(chosen if layout.planar else (0,)):
        first = plane * rows * columns
        places = slice(place, place + 1) if layout.planar else slice(None)
        for start, raw in _groups(data, layout, range(first, first + rows * columns)):
            values = _values(raw, layout)
            for index, value in enumerate(
                values if layout.planar else values[..., list(chosen)], start - first
            ):
                y, x = (index // columns) * layout.chunk_size[0], (index % columns) * layout.chunk_size[1]
                part = samples[y : y + value.shape[0], x : x + value.shape[1], places]
                part[...] = value[: part.shape[0], : part.shape[1]]
    return samples


def sample_type(layout: TiffLayout) -> np.dtype:
    """Return the type that samples are read into."""
    return np.dtype(f"{_KINDS[layout.samples]}{max(1, -(-layout.bits // 8))}")


def _groups(data: bytes, layout: TiffLayout, chunks: range) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the bytes of neighbouring chunks of one height: first index, (N, H, bytes of a row) uint8."""
    start = chunks.start
    most = max(1, _GROUP_BYTES // (layout.row_bytes * layout.chunk_size[0]))
    while start < chunks.stop:
        stop, height = start + 1, chunk_rows(layout, start)
        while stop < min(chunks.stop, start + most) and chunk_rows(layout, stop) == height:
            stop += 1
        unpack = _stored if layout.compression == UNCOMPRESSED else _unpacked
        raw = unpack(data, layout, range(start, stop), height)
        yield start, raw.reshape(stop - start, height, layout.row_bytes)
        start = stop


def _stored(data: bytes, layout: TiffLayout, chunks: range, height: int) -> np.ndarray:
    """Return the bytes of uncompressed chunks."""
    size = height * layout.row_bytes
    raw = np.empty((len(chunks), size), np.uint8)
    for place, index in enumerate(chunks):
        raw[place] = np.frombuffer(data, np.uint8, size, layout.offsets[index])
    return _REVERSED[raw, 0] if layout.reversed_bits else raw


def _unpacked(data: bytes, layout: TiffLayout, chunks: range, height: int) -> np.ndarray:
    """Return the bytes of compressed chunks of the same height, all of them or an error."""
    places = [(layout.offsets[index], layout.offsets[index] + layout.byte_counts[index]) for index in chunks]
    parts = [data[start:stop] for start, stop in places]
    if layout.compression in DEFLATE:
        size = height * layout.row_bytes
        parts = [_reversed(part) for part in parts] if layout.reversed_bits else parts
        return np.frombuffer(b"".join(_inflated(part, size) for part in parts), np.uint8)
    picture = _grey_picture(parts, layout, height)
    with TiffImagePlugin.TiffImageFile(io.BytesIO(picture)) as image:
        image.load()
        return np.asarray(image)


def _inflated(part: bytes, size: int) -> bytes:
    """Return so many bytes of a zlib stream whose checksum is right, also where it holds more of them."""
    inflater = zlib.decompressobj()
    raw = inflater.decompress(part, size)
    more = inflater.decompress(inflater.unconsumed_tail, size + _MORE_BYTES)
    if len(raw) < size or not (inflater.eof or len(more) == size + _MORE_BYTES):
        raise corrupt(f"a strip or tile of the TIFF unpacks to {len(raw)} of {size} bytes")
    return raw


def _reversed(part: bytes) -> bytes:
    """Return bytes with their bits in the other order."""
    turned: bytes = _REVERSED[np.frombuffer(part, np.uint8), 0].tobytes()
    return turned


def _grey_picture(parts: Sequence[bytes], layout: TiffLayout, height: int) -> bytes:
    """Return a TIFF of 8-bit grey whose strips are the parts."""
    lengths = [len(part) for part in parts]
    count, body = len(parts), 8 + 2 + 12 * 9 + 4
    offsets = np.cumsum([body + 8 * count, *lengths[:-1]])
    tables = [struct.pack(f"<{count}I", *values) for values in (offsets.tolist(), lengths)]
    single = count == 1
    entries = [
        (256, 4, 1, layout.row_bytes),
        (257, 4, 1, height * count),
        (258, 3, 1, 8),
        (259, 3, 1, layout.compression),
        (262, 3, 1, 1),
        (266, 3, 1, 2 if layout.reversed_bits else 1),
        (273, 4, count, int(offsets[0]) if single else body),
        (278, 4, 1, height),
        (279, 4, count, lengths[0] if single else body + 4 * count),
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    return b"".join((head, *tables, *parts))


def _values(raw: np.ndarray, layout: TiffLayout) -> np.ndarray:
    """Return (N, H, W, S) samples from (N, H, bytes of a row)."""
    num_samples = 1 if layout.planar else layout.num_samples
    shape = (*raw.shape[:2], layout.chunk_size[1], num_samples)
    dtype = sample_type(layout)
    if layout.predictor == 3:
        return _undo_float_predictor(raw, shape, dtype)
    if layout.bits in (8, 16, 32, 64):
        values = raw.view(np.dtype(f"{layout.order}{dtype.kind}{dtype.itemsize}")).reshape(shape)
        values = values.astype(dtype, copy=False)
    else:
        values = _unpack_bits(raw, layout.bits, shape, dtype)
    return np.cumsum(values, axis=2, dtype=dtype) if layout.predictor == 2 else values


def _unpack_bits(raw: np.ndarray, bits: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return samples that do not fill bytes; each row starts at a byte, its highest bit first."""
    count = shape[2] * shape[3]
    every = np.unpackbits(raw, axis=-1, count=count * bits).reshape(*raw.shape[:2], count, bits)
    values = np.zeros(every.shape[:-1], dtype)
    for bit in range(bits):
        values = (values << 1) | every[..., bit]
    return values.reshape(shape)


def _undo_float_predictor(raw: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return floats whose bytes were sorted by significance along each row, and stored as differences."""
    num_images, height, width, num_samples = shape
    steps = raw.reshape(num_images, height, width * dtype.itemsize, num_samples)
    planes = np.cumsum(steps, axis=2, dtype=np.uint8).reshape(num_images, height, dtype.itemsize, -1)
    big_endian = np.ascontiguousarray(np.moveaxis(planes, 2, -1)).view(dtype.newbyteorder(">"))
    return big_endian.reshape(shape).astype(dtype)
