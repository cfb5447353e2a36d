"""Image headers, read in plain Python before any decoder sees the file.

Every function works on untrusted bytes: offsets are checked before they are used, nothing is allocated by a
length found in the file, and damage becomes an `ImageError` that says where.
"""

import struct
import zlib
from dataclasses import dataclass

from sam_engine.errors import ImageError
from sam_engine.structures import ImageStatus

SUPPORTED = "JPEG, PNG, WebP, TIFF or BMP"

_JPEG_SOF = range(0xC0, 0xD0)
_JPEG_NOT_SOF = (0xC4, 0xC8, 0xCC)
_JPEG_READ = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_DEFLATE_MAX_RATIO = 1032
_TIFF_TYPE_BYTES = {1: 1, 3: 2, 4: 4}
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_ORIENTATION = 256, 257, 274
_TIFF_DATA_TAGS = ((273, 279), (324, 325))

_KNOWN_BUT_UNREAD = (
    (0, b"GIF8", "a GIF"),
    (0, b"%!PS", "PostScript"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"II+\x00", "a BigTIFF"),
    (0, b"MM\x00+", "a BigTIFF"),
    (0, b"\x1f\x8b", "gzip data"),
    (0, b"PK\x03\x04", "a zip archive"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyp", "a video"),
    (0, b"version https://git-lfs", "a Git LFS pointer: the image itself was not downloaded"),
)


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What the header says about the stored pixels."""

    format: str
    """JPEG, PNG, WebP, TIFF or BMP."""
    width: int
    height: int
    orientation: int = 1
    """EXIF orientation in [1, 8]; 1 where there is none or an invalid one."""
    components: int = 3
    """Samples per pixel, of a JPEG or PNG."""
    bits: int = 8
    """Per sample of a PNG, per pixel of a BMP."""
    num_blocks: int = 0
    """Blocks of 8 x 8 samples in a JPEG. Each takes a bit of the file at the very least."""
    data_offset: int = 0
    """Where the pixels of a BMP start, in bytes."""


def corrupt(message: str) -> ImageError:
    """Return the error for bytes that contradict themselves."""
    return ImageError(ImageStatus.CORRUPT, message)


def truncated(message: str) -> ImageError:
    """Return the error for a file that ends too early."""
    return ImageError(ImageStatus.TRUNCATED, message)


def unsupported(message: str) -> ImageError:
    """Return the error for a file of a kind that is not read."""
    return ImageError(ImageStatus.UNSUPPORTED, message)


def read_header(data: bytes) -> ImageHeader:
    """Return the size and orientation of an image, told by its first bytes and never by its name.

    Raises:
        ImageError: UNSUPPORTED if it is none of the formats read, TRUNCATED or CORRUPT if the header is.
    """
    if not data:
        raise unsupported("the file is empty (0 bytes)")
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_header(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_header(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_header(data)
    if data.startswith((b"II*\x00", b"MM\x00*")):
        return _tiff_header(data)
    if data.startswith(b"BM"):
        return _bmp_header(data)
    for offset, magic, name in _KNOWN_BUT_UNREAD:
        if data.startswith(magic, offset):
            raise unsupported(f"{name}, not {SUPPORTED}")
    if data.lstrip()[:1] == b"<":
        raise unsupported(f"markup (HTML, XML or SVG), not {SUPPORTED}")
    raise unsupported(f"not an image: starts with {data[:8].hex(' ')}, not with the mark of {SUPPORTED}")


def read_orientation(exif: bytes) -> int:
    """Return the orientation from an EXIF block; 1 if it has none, an invalid one, or is damaged."""
    try:
        value = _read_ifd(exif.removeprefix(b"Exif\x00\x00")).get(_TIFF_ORIENTATION)
    except ImageError:
        return 1
    return value[0] if value and len(value) == 1 and 1 <= value[0] <= 8 else 1


def _jpeg_header(data: bytes) -> ImageHeader:
    """Walk the segments up to the first scan."""
    position, orientation, frame, sampling = 2, None, None, [(1, 1)]
    while True:
        # libjpeg skips what lies between segments with a warning, which the strict decoder refuses later.
        position = data.find(b"\xff", position)
        while position >= 0 and data[position : position + 1] == b"\xff":
            position += 1
        if position < 0 or position >= len(data):
            raise truncated(f"the file ends after {len(data)} bytes, inside the JPEG header")
        marker = data[position]
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            position += 1
            continue
        if marker == 0xD9:
            raise corrupt(f"the JPEG ends at byte {position} without a picture")
        if position + 3 > len(data):
            raise truncated(f"the file ends after {len(data)} bytes, inside the JPEG header")
        (length,) = struct.unpack_from(">H", data, position + 1)
        body = data[position + 3 : position + 1 + length]
        if length < 2:
            raise corrupt(f"JPEG segment of length {length} at byte {position}")
        if len(body) < length - 2:
            raise truncated(f"the file ends after {len(data)} bytes, inside the JPEG header")
        if marker == 0xDA:
            break
        if marker == 0xE1 and orientation is None and body.startswith(b"Exif\x00\x00"):
            orientation = read_orientation(body)
        if marker in _JPEG_SOF and marker not in _JPEG_NOT_SOF:
            if frame is not None:
                raise corrupt(f"second JPEG frame header at byte {position}")
            if marker not in _JPEG_READ:
                raise unsupported(f"JPEG of kind SOF{marker - 0xC0}; only baseline and progressive are read")
            if len(body) < 6:
                raise corrupt(f"JPEG frame header of {len(body)} bytes at byte {position}")
            frame = struct.unpack_from(">BHHB", body)
            sampling = [(factors >> 4, factors & 15) for factors in body[7 : 7 + 3 * frame[3] : 3]]
        position += 1 + length
    if frame is None:
        raise corrupt(f"JPEG scan at byte {position} without a frame header")
    precision, height, width, components = frame
    if precision != 8:
        raise unsupported(f"JPEG with {precision} bits per sample; only 8 are read")
    if len(sampling) < components or not all(0 < n <= 4 for pair in sampling for n in pair):
        raise corrupt(f"JPEG frame header with sampling factors {sampling} of {components} components")
    if components not in (1, 3, 4):
        raise unsupported(f"JPEG with {components} components; only 1, 3 and 4 are read")
    return ImageHeader(
        format="JPEG",
        width=width,
        height=height,
        orientation=orientation or 1,
        components=components,
        num_blocks=_num_blocks(width, height, sampling),
    )


def _num_blocks(width: int, height: int, sampling: list[tuple[int, int]]) -> int:
    """Return the blocks of all components of a JPEG, by their (horizontal, vertical) sampling factors."""
    widest, tallest = max(across for across, _ in sampling), max(down for _, down in sampling)
    return sum(
        -(-width * across // (8 * widest)) * -(-height * down // (8 * tallest)) for across, down in sampling
    )


def _png_header(data: bytes) -> ImageHeader:
    """Read IHDR; orientation is found by `clean_png`."""
    if len(data) < 33:
        raise truncated(f"the file ends after {len(data)} bytes, inside the PNG header")
    length, name, width, height, bits, color, compression, filtering, interlace = struct.unpack_from(
        ">I4sIIBBBBB", data, 8
    )
    if name != b"IHDR" or length != 13:
        raise corrupt("the PNG does not start with IHDR")
    if bits not in _PNG_DEPTHS.get(color, ()) or compression or filtering or interlace > 1:
        raise corrupt(f"PNG header with colour type {color}, {bits} bits, interlace {interlace}")
    return ImageHeader(format="PNG", width=width, height=height, components=_PNG_CHANNELS[color], bits=bits)


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
        if name in _PNG_KEPT:
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


def _webp_header(data: bytes) -> ImageHeader:
    """Read the canvas or the first frame's size."""
    if len(data) < 30:
        raise truncated(f"the file ends after {len(data)} bytes, inside the WebP header")
    name = data[12:16]
    if name == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif name == b"VP8L" and data[20] == 0x2F:
        packed = int.from_bytes(data[21:25], "little")
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    elif name == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    else:
        raise corrupt(f"WebP whose first chunk is {ascii(name)[2:-1]} with an unknown start")
    return ImageHeader(format="WebP", width=width, height=height)


def webp_orientation(data: bytes) -> int:
    """Return the orientation of a complete WebP.

    Raises:
        ImageError: TRUNCATED if the file is shorter than it says.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise truncated(f"the file ends after {len(data)} of {end} bytes")
    position = 12
    while position + 8 <= end:
        name, length = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 8], "little"),
        )
        if name == b"EXIF":
            return read_orientation(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    return 1


def _tiff_header(data: bytes) -> ImageHeader:
    """Read size and orientation from the first directory."""
    tags = _read_ifd(data)
    size = [tags.get(tag, ()) for tag in (_TIFF_WIDTH, _TIFF_HEIGHT)]
    if any(len(value) != 1 for value in size):
        raise corrupt("TIFF without a width and a height")
    return ImageHeader(format="TIFF", width=size[0][0], height=size[1][0], orientation=read_orientation(data))


def clean_tiff(data: bytes) -> bytes:
    """Return a TIFF whose pixels are all there, its orientation set to 1.

    Pillow turns TIFFs by itself while it loads them, and no other format: here turning is left to one rule.

    Raises:
        ImageError: TRUNCATED if a strip or tile lies beyond the end of the file.
    """
    tags = _read_ifd(data)
    for offsets, lengths in _TIFF_DATA_TAGS:
        end = max(
            (sum(pair) for pair in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False)), default=0
        )
        if end > len(data):
            raise truncated(f"the file ends after {len(data)} bytes, its pixels at byte {end}")
    if _TIFF_ORIENTATION not in tags:
        return data
    order = "<" if data[:2] == b"II" else ">"
    (ifd,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, ifd)
    patched = bytearray(data)
    for entry in range(ifd + 2, ifd + 2 + 12 * count, 12):
        if struct.unpack_from(f"{order}H", data, entry)[0] == _TIFF_ORIENTATION:
            struct.pack_into(f"{order}HIHH", patched, entry + 2, 3, 1, 1, 0)
    return bytes(patched)


def _read_ifd(data: bytes) -> dict[int, tuple[int, ...]]:
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
            size = _TIFF_TYPE_BYTES.get(kind)
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


def _bmp_header(data: bytes) -> ImageHeader:
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
