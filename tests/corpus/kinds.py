"""Every kind of container and layout that people have in their folders, made from a picture."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tifffile
from PIL import Image

from tests.corpus.image_corpus import chunk, encode, masked_bmp, png
from tests.corpus.tiff_writer import DEFLATE, LZW, PACKBITS, write_tiff

GREY, RGB, CMYK = 1, 2, 5


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of file."""

    extension: str
    make: Callable[[np.ndarray], bytes]
    """From an (H, W, 3) uint8 picture."""
    is_read: bool = True
    """docs/images.md says that it is read."""


def _pillow(extension: str, kind: str, mode: str = "RGB", *, is_read: bool = True, **options: object) -> Kind:
    def make(picture: np.ndarray) -> bytes:
        return encode(_in_mode(picture, mode), kind, **options)

    return Kind(extension=extension, make=make, is_read=is_read)


def _in_mode(picture: np.ndarray, mode: str) -> Image.Image:
    image = Image.fromarray(picture)
    if mode in ("RGBA", "LA"):
        image.putalpha(image.getchannel("R"))
        return image.convert(mode)
    if mode == "P":
        return image.convert("P", palette=Image.Palette.ADAPTIVE, colors=60)
    return image.convert(mode)


def _animated(extension: str, kind: str, **options: object) -> Kind:
    def make(picture: np.ndarray) -> bytes:
        others = [Image.fromarray(np.roll(picture, 9, axis)) for axis in (0, 1)]
        return encode(picture, kind, save_all=True, append_images=others, **options)

    return Kind(extension=extension, make=make)


def _turned(extension: str, kind: str, orientation: int, **options: object) -> Kind:
    def make(picture: np.ndarray) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = orientation
        return encode(picture, kind, exif=exif, **options)

    return Kind(extension=extension, make=make)


def _tiff(channels: str = "RGB", *, bits: int = 8, is_read: bool = True, **layout: object) -> Kind:
    """Return a TIFF of our own writer: some channels of the picture, N one more that means nothing."""

    def make(picture: np.ndarray) -> bytes:
        samples = np.stack([picture[:, :, "RGBNK".index(name) % 3] for name in channels], axis=2)
        deep = samples.astype(np.uint16) * 257 if bits > 8 else samples >> (8 - bits)
        return write_tiff(deep, bits=bits, **{"photometric": RGB, **layout})

    return Kind(extension="tif", make=make, is_read=is_read)


def _by_tifffile(dtype: str = "u1", *, is_read: bool = True, **options: object) -> Kind:
    def make(picture: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        factor = 257 if np.dtype(dtype).itemsize > 1 else 1
        tifffile.imwrite(
            buffer, picture.astype(dtype) * np.dtype(dtype).type(factor), metadata=None, **options
        )
        return buffer.getvalue()

    return Kind(extension="tiff", make=make, is_read=is_read)


def _deep_png(colour: int, channels: str) -> Kind:
    def make(picture: np.ndarray) -> bytes:
        samples = picture[:, :, ["RGBA".index(name) % 3 for name in channels]].astype(">u2") * 257
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
        return png(picture.shape[1], picture.shape[0], 16, colour, rows)

    return Kind(extension="png", make=make)


def _png_with_text(text: bytes) -> Kind:
    def make(picture: np.ndarray) -> bytes:
        data = encode(picture, "PNG")
        return data[:33] + text + data[33:]

    return Kind(extension="png", make=make)


def _masked(bits: int, *masks: int) -> Kind:
    def make(picture: np.ndarray) -> bytes:
        packed = np.zeros(picture.shape[:2], np.uint64)
        for channel, mask in enumerate(masks):
            lowest = mask & -mask
            packed |= (picture[:, :, channel].astype(np.uint64) * (mask // lowest) // 255) * np.uint64(lowest)
        return masked_bmp(packed, *masks, bits=bits)

    return Kind(extension="bmp", make=make)


def _started(extension: str, start: bytes) -> Kind:
    """Return a kind of which we can make only the start, over bytes of a picture."""
    return Kind(extension=extension, make=lambda picture: start + picture.tobytes()[:5000], is_read=False)


_XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta><r tiff:Orientation="6"/></x:xmpmeta>'
_STRIPS, _TILES = {"rows_per_strip": 7}, {"tile": (32, 16)}

KINDS: dict[str, Kind] = {
    "jpeg": _pillow("jpg", "JPEG", quality=90),
    "jpeg 4:4:4": _pillow("jpeg", "JPEG", subsampling=0, quality=95),
    "jpeg 4:2:2": _pillow("jfif", "JPEG", subsampling=1),
    "jpeg progressive": _pillow("jpe", "JPEG", progressive=True),
    "jpeg restart": _pillow("jpg", "JPEG", restart_marker_blocks=3),
    "jpeg grey": _pillow("jif", "JPEG", "L"),
    "jpeg cmyk": _pillow("jpg", "JPEG", "CMYK", quality=90),
    "jpeg rgb": _pillow("jpg", "JPEG", keep_rgb=True),
    "jpeg turned": _turned("jpg", "JPEG", 6),
    "mpo": _animated("mpo", "MPO"),
    "png": _pillow("png", "PNG"),
    "png alpha": _pillow("png", "PNG", "RGBA"),
    "png grey": _pillow("png", "PNG", "L"),
    "png grey alpha": _pillow("png", "PNG", "LA"),
    "png palette": _pillow("png", "PNG", "P"),
    "png palette key": _pillow("png", "PNG", "P", transparency=2),
    "png one bit": _pillow("png", "PNG", "1"),
    "png deep grey": _deep_png(0, "R"),
    "png deep": _deep_png(2, "RGB"),
    "png deep alpha": _deep_png(6, "RGBA"),
    "png xmp": _png_with_text(chunk(b"iTXt", _XMP)),
    "apng": _animated("apng", "PNG"),
    "webp": _pillow("webp", "WEBP", quality=85),
    "webp lossless": _pillow("webp", "WEBP", lossless=True),
    "webp alpha": _pillow("webp", "WEBP", "RGBA", lossless=True),
    "webp animated": _animated("webp", "WEBP"),
    "webp turned": _turned("webp", "WEBP", 8),
    "gif": _pillow("gif", "GIF", "P"),
    "gif key": _pillow("gif", "GIF", "P", transparency=1),
    "gif animated": _animated("gif", "GIF"),
    "avif": _pillow("avif", "AVIF", speed=10),
    "avif alpha": _pillow("avif", "AVIF", "RGBA", speed=10),
    "avif turned": _turned("avif", "AVIF", 5, speed=10),
    "bmp": _pillow("bmp", "BMP"),
    "bmp palette": _pillow("bmp", "BMP", "P"),
    "bmp one bit": _pillow("bmp", "BMP", "1"),
    "bmp 5-6-5": _masked(16, 0xF800, 0x7E0, 0x1F),
    "bmp masks": _masked(32, 0xFF0000, 0xFF00, 0xFF),
    "dib": _pillow("dib", "DIB"),
    "tiff": _pillow("tif", "TIFF"),
    "tiff lzw": _pillow("tif", "TIFF", compression="tiff_lzw"),
    "tiff deflate": _pillow("tif", "TIFF", compression="tiff_adobe_deflate"),
    "tiff packbits": _pillow("tif", "TIFF", compression="packbits"),
    "tiff jpeg": _pillow("tif", "TIFF", compression="jpeg"),
    "tiff fax": _pillow("tif", "TIFF", "1", compression="group4"),
    "tiff palette": _pillow("tif", "TIFF", "P"),
    "tiff cmyk": _pillow("tif", "TIFF", "CMYK"),
    "tiff alpha": _pillow("tif", "TIFF", "RGBA"),
    "tiff grey": _pillow("tif", "TIFF", "L"),
    "tiff pages": _animated("tif", "TIFF"),
    "tiff deep": _tiff(bits=16),
    "tiff deep planes": _tiff(bits=16, planar=True),
    "tiff deep planes strips": _tiff(bits=16, planar=True, **_STRIPS),
    "tiff deep lzw tiles": _tiff(bits=16, compression=LZW, **_TILES),
    "tiff deep planes deflate": _tiff(bits=16, planar=True, compression=DEFLATE, predictor=2, **_STRIPS),
    "tiff deep big-endian": _tiff(bits=16, order=">"),
    "tiff deep grey": _tiff("R", bits=16, photometric=GREY, **_STRIPS),
    "tiff white is zero": _tiff("R", photometric=0),
    "tiff 4 bits": _tiff("G", bits=4, photometric=GREY),
    "tiff planes": _tiff(planar=True, **_STRIPS),
    "tiff planes tiles": _tiff(planar=True, compression=PACKBITS, **_TILES),
    "tiff tiles": _tiff(**_TILES),
    "tiff three bands": _tiff(photometric=GREY, extra=(0, 0)),
    "tiff infrared": _tiff("RGBN", extra=(0,)),
    "tiff infrared planes": _tiff("RGBN", extra=(0,), planar=True, compression=DEFLATE),
    "tiff cmyk planes": _tiff("RGBN", photometric=CMYK, planar=True),
    "tifffile": _by_tifffile(photometric="rgb"),
    "tifffile deflate tiles": _by_tifffile("u2", photometric="rgb", compression="zlib", tile=(32, 32)),
    "tifffile predictor": _by_tifffile("u2", photometric="rgb", compression="zlib", predictor=False),
    "tifffile bands": _by_tifffile("u2", photometric="minisblack"),
    "tiff four bands": _tiff("RGBN", photometric=GREY, extra=(0, 0, 0), is_read=False),
    "tifffile float": _by_tifffile("f4", photometric="minisblack", is_read=False),
    "tifffile float rgb": _by_tifffile("f4", photometric="rgb", is_read=False),
    "tifffile signed": _by_tifffile("i2", photometric="minisblack", is_read=False),
    "tifffile 32 bits": _by_tifffile("u4", photometric="rgb", is_read=False),
    "bigtiff": _by_tifffile(photometric="rgb", bigtiff=True, is_read=False),
    "jpeg 2000": _pillow("jp2", "JPEG2000", is_read=False),
    "ppm": _pillow("ppm", "PPM", is_read=False),
    "pgm": _pillow("pgm", "PPM", "L", is_read=False),
    "icon": _pillow("ico", "ICO", is_read=False),
    "pcx": _pillow("pcx", "PCX", is_read=False),
    "heic sequence": _started("heic", b"\0\0\0\x18ftyphevc\0\0\0\0mif1hevc"),
    "psd": _started("psd", b"8BPS\0\1" + bytes(6)),
    "jpeg xl": _started("jxl", b"\xff\x0a"),
    "raw file": _started("cr3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"),
    "openexr": _started("exr", b"v/1\x01\2\0\0\0"),
}
