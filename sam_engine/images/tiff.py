"""TIFF: how the first page is laid out, and whether that is a kind that is read.

Sizes, counts and offsets come from the file and are checked here, before anything is read by them.
"""

import enum
import math
import struct
from dataclasses import dataclass
from typing import Literal

from sam_engine.images.image_header import ImageHeader, corrupt, truncated, unsupported
from sam_engine.images.orientation import choose_orientation
from sam_engine.images.tiff_tags import ORIENTATION, byte_order, read_tags

Samples = Literal["unsigned integer", "signed integer", "floating point"]


class _Tag(enum.IntEnum):
    NEW_SUBFILE = 254
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    NUM_SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTES = 279
    PLANAR = 284
    PREDICTOR = 317
    COLORMAP = 320
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_BYTES = 325
    SUB_DIRECTORIES = 330
    INK_SET = 332
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    SUBSAMPLING = 530
    XMP = 700
    DNG = 50706


_WANTED = frozenset(_Tag)
_HARMLESS = (_Tag.XMP, _Tag.DNG, _Tag.SUB_DIRECTORIES)

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
_UNREAD_COLOURS = {
    4: "a transparency mask",
    8: "CIE Lab",
    9: "ICC Lab",
    10: "ITU Lab",
    32803: "the mosaic of a camera's sensor",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw data of a camera",
}
UNCOMPRESSED, JPEG = 1, 7
FAX = (2, 3, 4)
DEFLATE = (8, 32946)
_PACKED = {5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate", 34925: "LZMA", 50000: "Zstandard"}
_UNREAD_COMPRESSIONS = {
    6: "JPEG of the old kind",
    34712: "JPEG 2000",
    34887: "LERC",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_WITH_PREDICTOR = (5, 8, 32946, 34925, 50000)
_BITS_READ: dict[Samples, tuple[int, ...]] = {
    "unsigned integer": (1, 2, 4, 8, 10, 12, 14, 16, 32, 64),
    "signed integer": (8, 16, 32, 64),
    "floating point": (16, 32, 64),
}
_SAMPLE_FORMATS: dict[int, Samples] = {
    1: "unsigned integer",
    2: "signed integer",
    3: "floating point",
    4: "unsigned integer",
}


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """Where the samples of a page lie, and what they are. A chunk is a strip or a tile."""

    order: str
    """< or >, as `struct` has them."""
    size: tuple[int, int]
    """(H, W) in pixels."""
    photometric: int
    compression: int
    predictor: int
    reversed_bits: bool
    """Bits of each byte are stored from the lowest to the highest (FillOrder 2)."""
    bits: int
    """Of each sample."""
    samples: Samples
    num_samples: int
    """Of each pixel."""
    num_colours: int
    """The first so many samples of each pixel are its colour."""
    alpha: int | None
    """Which sample says how opaque the pixel is; None without transparency."""
    premultiplied: bool
    """Colours are stored multiplied by alpha."""
    planar: bool
    """Each chunk holds one sample of its pixels; chunks of the first sample come first."""
    chunk_size: tuple[int, int]
    """(H, W) of a whole chunk, in pixels."""
    tiled: bool
    """Chunks at the edges are as large as all others, and padded."""
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]
    """Empty where they are missing, which only uncompressed files can bear."""
    colormap: tuple[int, ...]
    """Reds, then greens, then blues, 16 bits each; empty unless ``photometric`` is PALETTE."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of chunks."""
        (height, width), (rows, columns) = self.size, self.chunk_size
        return -(-height // rows), -(-width // columns)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a chunk, unpacked."""
        samples = 1 if self.planar else self.num_samples
        return (self.chunk_size[1] * samples * self.bits + 7) // 8


def tiff_header(data: bytes) -> ImageHeader:
    """Read size and orientation from the first directory."""
    tags = read_tags(data, _WANTED)
    height, width = _size(tags)
    return ImageHeader(
        format="TIFF",
        width=width,
        height=height,
        orientation=choose_orientation(data, bytes(tags.get(_Tag.XMP, ()))),
        components=_one(tags, _Tag.NUM_SAMPLES, 1),
        bits=max(tags.get(_Tag.BITS, (1,)), default=1),
    )


def _size(tags: dict[int, tuple[int, ...]]) -> tuple[int, int]:
    size = [tags.get(tag, ()) for tag in (_Tag.HEIGHT, _Tag.WIDTH)]
    if any(len(value) != 1 for value in size):
        raise corrupt("TIFF without a width and a height")
    return size[0][0], size[1][0]


def _one(tags: dict[int, tuple[int, ...]], tag: int, default: int) -> int:
    """Return a tag of one value."""
    return (tags.get(tag) or (default,))[0]


def tiff_layout(data: bytes) -> TiffLayout:
    """Return how the first page is laid out.

    Raises:
        ImageError: UNSUPPORTED for a kind that is not read, CORRUPT for tags that contradict each other,
            TRUNCATED if a strip or tile lies beyond the end of the file.
    """
    tags = read_tags(data, _WANTED)
    unread = [tag for tag, values in tags.items() if not values and tag not in _HARMLESS]
    if unread:
        raise corrupt(f"TIFF whose tag {unread[0]} cannot be read")
    _refuse_camera_files(data, tags)
    size, num_samples = _size(tags), _one(tags, _Tag.NUM_SAMPLES, 1)
    if num_samples < 1:
        raise corrupt("TIFF with 0 samples per pixel")
    photometric, num_colours, alpha, premultiplied = _colours(tags, num_samples)
    planar = _one(tags, _Tag.PLANAR, 1) == 2 and num_samples > 1
    bits, samples = _sample_type(tags)
    chunk_size, tiled = _chunk_size(tags, size)
    layout = TiffLayout(
        order=byte_order(data),
        size=size,
        photometric=photometric,
        compression=_one(tags, _Tag.COMPRESSION, UNCOMPRESSED),
        predictor=1,
        reversed_bits=_one(tags, _Tag.FILL_ORDER, 1) == 2,
        bits=bits,
        samples=samples,
        num_samples=num_samples,
        num_colours=num_colours,
        alpha=alpha,
        premultiplied=premultiplied,
        planar=planar,
        chunk_size=chunk_size,
        tiled=tiled,
        offsets=tags.get(_Tag.TILE_OFFSETS if tiled else _Tag.STRIP_OFFSETS, ()),
        byte_counts=tags.get(_Tag.TILE_BYTES if tiled else _Tag.STRIP_BYTES, ()),
        colormap=tags.get(_Tag.COLORMAP, ()) if photometric == PALETTE else (),
    )
    _check_compression(layout, tags)
    _check_colours(layout, tags)
    _check_chunks(layout, data)
    predictor = _one(tags, _Tag.PREDICTOR, 1) if layout.compression in _WITH_PREDICTOR else 1
    return TiffLayout(**{**layout.__dict__, "predictor": _checked_predictor(layout, predictor)})


def _refuse_camera_files(data: bytes, tags: dict[int, tuple[int, ...]]) -> None:
    """Raise UNSUPPORTED for TIFFs whose first page is only the thumbnail of what a camera's sensor saw."""
    reduced = _one(tags, _Tag.NEW_SUBFILE, 0) & 1 and _Tag.SUB_DIRECTORIES in tags
    if _Tag.DNG in tags or reduced or data[8:10] == b"CR":
        raise unsupported("a camera's raw file, whose first page is a thumbnail; develop it first")


def _sample_type(tags: dict[int, tuple[int, ...]]) -> tuple[int, Samples]:
    """Return bits and kind of all samples."""
    all_bits, formats = tags.get(_Tag.BITS) or (1,), tags.get(_Tag.SAMPLE_FORMAT) or (1,)
    if len(set(all_bits)) > 1 or len(set(formats)) > 1:
        raise unsupported(f"TIFF whose samples differ: bits {all_bits[:8]}, formats {formats[:8]}")
    samples = _SAMPLE_FORMATS.get(formats[0])
    if samples is None:
        raise unsupported(f"TIFF with samples of format {formats[0]} (5 and 6 are complex numbers)")
    if all_bits[0] not in _BITS_READ[samples]:
        raise unsupported(f"TIFF with {all_bits[0]}-bit {samples} samples")
    return all_bits[0], samples


def _colours(tags: dict[int, tuple[int, ...]], num_samples: int) -> tuple[int, int, int | None, bool]:
    """Return photometric interpretation, number of colour samples, place of alpha, and if colours hold it."""
    photometric = _one(tags, _Tag.PHOTOMETRIC, -1)
    if photometric not in _COLOURS:
        name = _UNREAD_COLOURS.get(photometric, f"photometric interpretation {photometric}")
        raise unsupported(f"TIFF with {'no colour space' if photometric < 0 else name}")
    num_colours = _COLOURS[photometric]
    if num_samples < num_colours:
        raise corrupt(f"TIFF with {num_samples} samples per pixel where its colours take {num_colours}")
    extra = tags.get(_Tag.EXTRA_SAMPLES, ())[: num_samples - num_colours]
    if photometric == RGB and num_samples == 4 and not extra:
        extra = (2,)  # as every reader takes a fourth sample that nothing is said about
    kinds = (*(0,) * (num_samples - len(extra)), *extra)
    alpha = next((index for index, kind in enumerate(kinds) if kind in (1, 2)), None)
    if photometric == BLACK_IS_ZERO and num_samples - (alpha is not None) >= 3:
        num_colours = num_samples - (alpha is not None)  # bands, which many programs write as grey and more
    if alpha is not None and alpha < num_colours:
        raise unsupported(f"TIFF whose sample {alpha + 1} of {num_samples} is transparency")
    return photometric, num_colours, alpha, alpha is not None and kinds[alpha] == 1


def _chunk_size(tags: dict[int, tuple[int, ...]], size: tuple[int, int]) -> tuple[tuple[int, int], bool]:
    """Return (H, W) of strips or tiles, and whether they are tiles."""
    tiled = _Tag.TILE_OFFSETS in tags
    if tiled:
        chunk_size = _one(tags, _Tag.TILE_HEIGHT, 0), _one(tags, _Tag.TILE_WIDTH, 0)
    else:
        chunk_size = min(_one(tags, _Tag.ROWS_PER_STRIP, size[0]), size[0]), size[1]
    if min(chunk_size) < 1:
        raise corrupt(
            f"TIFF with {'tiles' if tiled else 'strips'} of {chunk_size[1]} x {chunk_size[0]} pixels"
        )
    return chunk_size, tiled


def _check_compression(layout: TiffLayout, tags: dict[int, tuple[int, ...]]) -> None:
    """Raise UNSUPPORTED for a compression that is not read, or not for such samples."""
    compression = layout.compression
    if compression == JPEG:
        colours = (layout.photometric, layout.num_samples)
        read = layout.bits == 8 and colours in ((0, 1), (1, 1), (RGB, 3), (YCBCR, 3), (CMYK, 4))
        if not read or layout.planar:
            kind = f"{layout.num_samples} samples of {layout.bits} bits"
            raise unsupported(f"TIFF with JPEG compression of {kind}{', in planes' * layout.planar}")
    elif compression in FAX:
        if (layout.bits, layout.num_samples) != (1, 1) or layout.photometric > BLACK_IS_ZERO:
            raise unsupported("TIFF with fax compression of more than one bit per pixel")
    elif compression != UNCOMPRESSED and compression not in _PACKED:
        name = _UNREAD_COMPRESSIONS.get(compression, f"kind {compression}")
        raise unsupported(f"TIFF with compression of {name}")
    subsampled = tags.get(_Tag.SUBSAMPLING, (2, 2)) != (1, 1)
    if layout.photometric == YCBCR and compression != JPEG and subsampled:
        raise unsupported("TIFF with subsampled YCbCr and no JPEG compression")


def _check_colours(layout: TiffLayout, tags: dict[int, tuple[int, ...]]) -> None:
    """Raise for samples that make no colours."""
    integers = layout.samples == "unsigned integer"
    if layout.photometric == PALETTE:
        if layout.bits > 8 or not integers:
            raise unsupported(f"TIFF with a palette for {layout.bits}-bit {layout.samples} samples")
        if len(layout.colormap) < 3 * 2**layout.bits:
            raise corrupt(f"TIFF palette of {len(layout.colormap)} values for {layout.bits}-bit samples")
    if layout.photometric == CMYK and _one(tags, _Tag.INK_SET, 1) != 1:
        raise unsupported("TIFF with inks other than cyan, magenta, yellow and black")
    if layout.photometric in (CMYK, YCBCR) and not (integers and layout.bits in (8, 16)):
        raise unsupported(f"TIFF with CMYK or YCbCr in {layout.bits}-bit {layout.samples} samples")
    if layout.photometric == YCBCR and layout.bits != 8:
        raise unsupported(f"TIFF with YCbCr in {layout.bits} bits")


def _checked_predictor(layout: TiffLayout, predictor: int) -> int:
    whole_bytes = layout.bits in (8, 16, 32, 64)
    is_float = layout.samples == "floating point"
    if not (predictor == 1 or (predictor == 2 and whole_bytes) or (predictor == 3 and is_float)):
        raise unsupported(f"TIFF with predictor {predictor} for {layout.bits}-bit {layout.samples} samples")
    return predictor


def _check_chunks(layout: TiffLayout, data: bytes) -> None:
    """Raise CORRUPT for missing strips or tiles, TRUNCATED for those beyond the end of the file."""
    name = "tiles" if layout.tiled else "strips"
    expected = math.prod(layout.grid) * (layout.num_samples if layout.planar else 1)
    if len(layout.offsets) < expected:
        raise corrupt(f"TIFF with {len(layout.offsets)} {name} where its size takes {expected}")
    if layout.compression == UNCOMPRESSED:
        counts = tuple(chunk_rows(layout, index) * layout.row_bytes for index in range(expected))
    else:
        counts = layout.byte_counts
        if len(counts) < expected:
            raise corrupt(f"TIFF with {expected} {name} and the length of {len(counts)}")
    if any(not offset for offset in layout.offsets[:expected]):
        raise unsupported(f"a sparse TIFF: some of its {expected} {name} were never written")
    end = max(map(sum, zip(layout.offsets[:expected], counts, strict=False)))
    if end > len(data):
        raise truncated(f"the file ends after {len(data)} bytes, its pixels at byte {end}")


def chunk_rows(layout: TiffLayout, index: int) -> int:
    """Return the rows that are stored in a chunk, fewer in the last strip."""
    if layout.tiled:
        return layout.chunk_size[0]
    first = index % layout.grid[0] * layout.chunk_size[0]
    return min(layout.chunk_size[0], layout.size[0] - first)


def without_orientation(data: bytes) -> bytes:
    """Return a TIFF whose orientation is set to 1.

    Pillow turns TIFFs by itself while it loads them, and no other format: here turning is left to one rule.
    """
    order = byte_order(data)
    (ifd,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, ifd)
    patched = bytearray(data)
    for entry in range(ifd + 2, ifd + 2 + 12 * count, 12):
        if struct.unpack_from(f"{order}H", data, entry)[0] == ORIENTATION:
            struct.pack_into(f"{order}HIHH", patched, entry + 2, 3, 1, 1, 0)
    return bytes(patched)
