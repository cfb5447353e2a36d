"""PNG: the header, the chunks that make pixels, and those pixels."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, PngImagePlugin

from sam_engine.config import DecodeConfig
from sam_engine.images.image_header import ImageHeader, corrupt, truncated, unsupported
from sam_engine.images.orientation import choose_orientation, raw_profile
from sam_engine.images.pixels import composite, repeat_grey, to_rgb
from sam_engine.images.scaling import high_bits, low_bits_note, scale_to_eight_bits

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_DEFLATE_MAX_RATIO = 1032
_INFLATED_AT_ONCE = 2**20
_MAX_TEXT = 2**20
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_RAW_PROFILE, _XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"
_ORIENTED = (_RAW_PROFILE, _XMP)
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_ADAM7 = (  # first column and row, then the steps
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


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


def clean_png(data: bytes, header: ImageHeader, *, strict: bool) -> tuple[bytes, int, str | None]:
    """Return the PNG reduced to what its pixels need, all checksums verified, its orientation, and a note.

    Text, colour profiles and animation frames are dropped unread, so that none of them can inflate. Unless
    ``strict``, a file that ends after its last pixel and before its end mark is completed, with a note; so is
    an end mark whose checksum is wrong.

    Raises:
        ImageError: TRUNCATED or CORRUPT, naming the chunk.
    """
    view = memoryview(data)
    kept, found, position, note, name = [view[:8]], dict[bytes, bytes](), 8, None, b""
    while name != b"IEND":
        end, name = position + 8, b""
        if end <= len(data):
            length, name = struct.unpack_from(">I4s", data, position)
            end += length + 4
        if end > len(data):
            place = f"inside PNG chunk {ascii(name)[1:]}" if name else "before the PNG's end mark"
            problem = f"the file ends after {len(data)} bytes, {place}"
            if not strict and name == b"IDAT" and end - 4 <= len(data):  # its checksum alone is missing
                kept.append(memoryview(_with_checksum(view[position : end - 4])))
            if strict or not _is_complete(kept, header, interlaced=data[28] == 1):
                raise truncated(problem)
            kept.append(memoryview(_END))
            note = f"decoded leniently: {problem}"
            break
        if name in _KEPT:
            if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
                problem = f"wrong checksum of PNG chunk {name.decode()} at byte {position}"
                if strict or name != b"IEND":
                    raise corrupt(problem)
                note = f"decoded leniently: {problem}"
                kept.append(memoryview(_END))
                break
            kept.append(view[position:end])
        elif name == b"eXIf":
            found[name] = bytes(view[position + 8 : end - 4])
        elif name in _TEXTS:
            found |= _oriented_text(name, view[position + 8 : end - 4])
        position = end
    pixel_bytes = sum(len(part) - 12 for part in _pixel_chunks(kept))
    raw_bytes = header.width * header.height * header.components * header.bits // 8
    if pixel_bytes * _DEFLATE_MAX_RATIO < raw_bytes:
        raise corrupt(
            f"{pixel_bytes} bytes of pixel data cannot fill {header.width} x {header.height} pixels"
        )
    return b"".join(kept), _orientation(found), note


def _with_checksum(chunk: memoryview) -> bytes:
    """Return a chunk that lacks its checksum with it."""
    return bytes(chunk) + zlib.crc32(chunk[4:]).to_bytes(4)


def _oriented_text(name: bytes, body: memoryview) -> dict[bytes, bytes]:
    """Return the text of a chunk by its keyword, if that is one that may hold an orientation."""
    keyword = bytes(body[:80]).partition(b"\0")[0]
    if keyword not in _ORIENTED:
        return {}
    rest = bytes(body[len(keyword) + 1 :])
    compressed = name == b"zTXt"
    if name == b"zTXt":
        rest = rest[1:]
    elif name == b"iTXt":
        compressed = rest[:1] != b"\0"
        rest = rest[2:].split(b"\0", 2)[-1]
    if not compressed:
        return {keyword: rest}
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(rest, _MAX_TEXT)
    except zlib.error:
        return {}
    return {keyword: text} if inflater.eof else {}


def _orientation(found: dict[bytes, bytes]) -> int:
    """Return the orientation by an EXIF chunk, else by the profile that ImageMagick writes, else by XMP."""
    exif = found.get(b"eXIf")
    if exif is None and _RAW_PROFILE in found:
        exif = raw_profile(found[_RAW_PROFILE])
    return choose_orientation(exif, found.get(_XMP))


def _pixel_chunks(chunks: list[memoryview]) -> list[memoryview]:
    return [chunk for chunk in chunks[1:] if bytes(chunk[4:8]) == b"IDAT"]


def _is_complete(chunks: list[memoryview], header: ImageHeader, *, interlaced: bool) -> bool:
    """Return whether whole chunks of pixel data inflate to all rows."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [
        (-(-max(0, header.width - x) // step_x), -(-max(0, header.height - y) // step_y))
        for x, y, step_x, step_y in passes
    ]
    pixel_bits = header.components * header.bits
    missing = sum(rows * (1 + (columns * pixel_bits + 7) // 8) for columns, rows in sizes if columns)
    inflater = zlib.decompressobj()
    try:
        for chunk in _pixel_chunks(chunks):
            rest: bytes | memoryview = chunk[8:-4]
            while rest and missing >= 0 and not inflater.eof:
                missing -= len(inflater.decompress(rest, _INFLATED_AT_ONCE))
                rest = inflater.unconsumed_tail
    except zlib.error:
        return False
    return inflater.eof and missing == 0


def decode_png(data: bytes, header: ImageHeader, config: DecodeConfig) -> tuple[np.ndarray, int, str | None]:
    """Return pixels as stored, (H, W, 3) uint8, the orientation, and a note.

    Raises:
        ImageError: As `clean_png`.
    """
    clean, orientation, note = clean_png(data, header, strict=config.strict)
    if header.bits < 16:
        with PngImagePlugin.PngImageFile(io.BytesIO(clean)) as image:
            return to_rgb(image, config.background), orientation, note
    samples, transparent = _read_16_bits(clean, header)
    num_colours = 3 if header.components >= 3 else 1
    colours = samples[:, :, :num_colours]
    if config.scale is None:
        note = note or low_bits_note(colours, 16)
        values = high_bits(colours, 16)
    else:
        values = scale_to_eight_bits(colours, config.scale)
    rgb = repeat_grey(values[:, :, 0]) if num_colours == 1 else np.ascontiguousarray(values)
    if transparent is not None:
        rgb[transparent] = config.background
    if header.components in (1, 3):
        return rgb, orientation, note
    rgba = np.concatenate([rgb, high_bits(samples[:, :, -1:], 16)], axis=2)
    return composite(Image.fromarray(rgba, "RGBA"), config.background), orientation, note


def _read_16_bits(clean: bytes, header: ImageHeader) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (H, W, S) uint16 samples, and for grey with a transparent level where that is, (H, W) bool.

    Pillow hands over the high bytes of 16-bit colours; OpenCV has all bits. No transparent colour is sought.
    """
    if header.components == 1:
        with PngImagePlugin.PngImageFile(io.BytesIO(clean)) as image:
            image.load()
            samples = np.asarray(image)
            key = image.info.get("transparency")
        return samples[:, :, None].astype(np.uint16), None if key is None else samples == key
    import cv2  # late: readers and exporters use this module and start at once

    kept = [clean[:8], *(part for part in _chunks(clean) if part[4:8] != b"tRNS")]
    pixels = cv2.imdecode(np.frombuffer(b"".join(kept), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise corrupt("PNG decoder: damaged pixel data")
    order = {2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[header.components]
    return pixels[:, :, order], None


def _chunks(clean: bytes) -> Iterator[bytes]:
    """Yield the chunks of a PNG that `clean_png` made."""
    position = 8
    while position < len(clean):
        end = position + 12 + int.from_bytes(clean[position : position + 4])
        yield clean[position:end]
        position = end
