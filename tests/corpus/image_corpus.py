"""Good, odd, damaged and hostile image files, made on the spot, each with the status it must get.

A case is called by the file name it would have in the wild, extensions wrong where that is the point.
"""

import functools
import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from sam_engine.structures import ImageStatus

SIZE = (96, 144)
"""(H, W) of the picture most cases hold."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file."""

    data: bytes
    status: ImageStatus = ImageStatus.OK
    size: tuple[int, int] = SIZE
    """(H, W) of the decoded image, if it decodes."""


@functools.cache
def photo() -> np.ndarray:
    """Return (H, W, 3) uint8 with smooth structure and noise, like a photograph."""
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]].astype(np.float32)
    waves = (np.sin(x / 17 + y / 41), np.cos(x / 23 - y / 13), np.sin((x + y) / 29))
    noise = np.random.default_rng(0).normal(0, 8, (*SIZE, 3))
    return np.clip(127 + 80 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    """Return an image file made by Pillow."""
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """Return one PNG chunk."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, color: int, raw: bytes, *between: bytes) -> bytes:
    """Return a PNG of raw scanlines, with more chunks between header and pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(raw, 1))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(between) + pixels + chunk(b"IEND", b"")


def zero_png(width: int, height: int) -> bytes:
    """Return a complete black 1-bit PNG, cheaply, however large."""
    compressor = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    block = max(1, 2**20 // len(row))
    body = b"".join(
        compressor.compress(row * min(block, height - first)) for first in range(0, height, block)
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body + compressor.flush()) + chunk(b"IEND", b"")


def masked_bmp(pixels: np.ndarray, *masks: int, bits: int = 32) -> bytes:
    """Return a BMP of (H, W) packed pixels whose colours lie where the masks say."""
    height, width = pixels.shape
    size, compression = 40 if len(masks) == 3 else 56, 3
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    header += struct.pack(f"<{len(masks)}I", *masks)
    rows = (
        np.pad(pixels[::-1], ((0, 0), (0, width % 2))).astype("<u2")
        if bits == 16
        else pixels[::-1].astype("<u4")
    )
    return (
        b"BM"
        + struct.pack("<IHHI", 14 + len(header) + rows.nbytes, 0, 0, 14 + len(header))
        + header
        + rows.tobytes()
    )


def patch_jpeg_size(data: bytes, height: int, width: int) -> bytes:
    """Return a baseline JPEG whose frame header lies about its size."""
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def patch(data: bytes, offset: int, *values: int) -> bytes:
    """Return the data with some bytes replaced."""
    return data[:offset] + bytes(values) + data[offset + len(values) :]


def flip(data: bytes, first: int, last: int, count: int) -> bytes:
    """Return the data with ``count`` bytes in [first, last) inverted."""
    damaged = np.frombuffer(data, np.uint8).copy()
    damaged[np.random.default_rng(1).integers(first, last, count)] ^= 0x5A
    return damaged.tobytes()


@functools.cache
def cases() -> dict[str, Case]:
    """Return the whole corpus by file name."""
    return {**_good(), **_modes(), **_damaged(), **_undetected(), **_not_images(), **_bombs()}


def _good() -> dict[str, Case]:
    rgb = Image.fromarray(photo())
    jpeg = encode(rgb, "JPEG", quality=90)
    png_file = encode(rgb, "PNG")
    frames = [Image.fromarray(np.roll(photo(), shift * 30, 1)) for shift in range(3)]
    animation = {"save_all": True, "append_images": frames[1:]}
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = {
        "ok.jpg": jpeg,
        "ok_progressive.jpg": encode(rgb, "JPEG", progressive=True),
        "ok_444.jpg": encode(rgb, "JPEG", subsampling=0),
        "ok_restart.jpg": encode(rgb, "JPEG", restart_marker_blocks=2),
        "ok_icc.jpg": encode(rgb, "JPEG", icc_profile=srgb),
        "ok_comment.jpg": encode(rgb, "JPEG", comment=b"\x00\x1b[2J\n" * 100),
        "tail_garbage.jpg": jpeg + b"<script>alert(1)</script>" * 10,
        "tail_image.jpg": jpeg + jpeg,
        "fill_bytes.jpg": jpeg[:2] + b"\xff\xff\xff" + jpeg[2:],
        "ok.png": png_file,
        "png_as.jpg": png_file,
        "tail_garbage.png": png_file + b"more",
        "ztxt.png": png_file[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(b"A" * 2**26, 1)) + png_file[33:],
        "iccp.png": png_file[:33] + chunk(b"iCCP", b"k\0\0" + zlib.compress(b"B" * 2**26, 1)) + png_file[33:],
        "damaged_text.png": png_file[:33] + chunk(b"tEXt", b"\xff")[:-1] + b"\0" + png_file[33:],
        "animated.png": encode(frames[0], "PNG", **animation),
        "ok.webp": encode(rgb, "WEBP", quality=90),
        "ok_lossless.webp": encode(rgb, "WEBP", lossless=True),
        "animated.webp": encode(frames[0], "WEBP", quality=90, **animation),
        "tail_garbage.webp": encode(rgb, "WEBP", quality=90) + b"more",
        "ok.tif": encode(rgb, "TIFF"),
        "ok_lzw.tif": encode(rgb, "TIFF", compression="tiff_lzw"),
        "ok_deflate.tif": encode(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "ok_jpeg.tif": encode(rgb, "TIFF", compression="jpeg"),
        "bad_tag.tif": _break_tag(encode(rgb, "TIFF", dpi=(72, 72))),
        "multipage.tif": encode(frames[0], "TIFF", **animation),
        "ok.bmp": encode(rgb, "BMP"),
        "ok.dib": encode(rgb, "BMP"),
        "bare.dib": encode(rgb, "BMP")[14:],
        "ok.gif": encode(rgb, "GIF"),
        "animated.gif": encode(frames[0], "GIF", **animation),
        "tail_garbage.gif": encode(rgb, "GIF") + b"more",
        "ok.avif": encode(rgb, "AVIF", quality=90, speed=10),
        "avif_as.jpg": encode(rgb, "AVIF", quality=90, speed=10),
        "animated.avif": encode(frames[0], "AVIF", speed=10, **animation),
        "ok.mpo": encode(frames[0], "MPO", **animation),
        "ok.dat": jpeg,
    }
    odd = {
        "1x1.png": (encode(photo()[:1, :1], "PNG"), (1, 1)),
        "1x1.jpg": (encode(photo()[:1, :1], "JPEG"), (1, 1)),
        "1x1.webp": (encode(photo()[:1, :1], "WEBP"), (1, 1)),
        "strip.jpg": (encode(np.full((4, 20_000, 3), 90, np.uint8), "JPEG"), (4, 20_000)),
        "strip.png": (zero_png(32_768, 1), (1, 32_768)),
    }
    return {name: Case(data=data) for name, data in files.items()} | {
        name: Case(data=data, size=size) for name, (data, size) in odd.items()
    }


def _break_tag(tiff: bytes) -> bytes:
    """Point XResolution beyond the end of the file, which Pillow warns about."""
    tag = tiff.index(struct.pack("<HHI", 282, 5, 1))
    return tiff[: tag + 8] + b"\xff\xff\xff\x7f" + tiff[tag + 12 :]


def _modes() -> dict[str, Case]:
    rgb = Image.fromarray(photo())
    grey = rgb.convert("L")
    alpha = rgb.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.arange(SIZE[1], dtype=np.uint8), (SIZE[0], 1))))
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    deep = (photo()[:, :, 0].astype(np.uint16) << 8) | 0x5A
    two = Image.merge("LA", (grey, Image.new("L", grey.size, 128)))
    files = {
        "grey.jpg": encode(grey, "JPEG"),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG", quality=95),
        "cmyk.tif": encode(rgb.convert("CMYK"), "TIFF"),
        "ycbcr.tif": encode(rgb.convert("YCbCr"), "TIFF"),
        "grey.png": encode(grey, "PNG"),
        "grey.tif": encode(grey, "TIFF"),
        "grey.bmp": encode(grey, "BMP"),
        "grey16.png": encode(deep, "PNG"),
        "grey16.tif": encode(deep, "TIFF"),
        "rgb16.png": png(
            SIZE[1],
            SIZE[0],
            16,
            2,
            b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in photo()),
        ),
        "grey_alpha.png": encode(two, "PNG"),
        "rgba.png": encode(alpha, "PNG"),
        "rgba.webp": encode(alpha, "WEBP", lossless=True),
        "rgba.tif": encode(alpha, "TIFF"),
        "palette.png": encode(palette, "PNG"),
        "palette_transparent.png": encode(palette, "PNG", transparency=3),
        "palette.tif": encode(palette, "TIFF"),
        "palette.bmp": encode(palette, "BMP"),
        "bilevel.png": encode(rgb.convert("1"), "PNG"),
        "bilevel_g4.tif": encode(rgb.convert("1"), "TIFF", compression="group4"),
    }
    refused = {
        "float.tif": encode(photo()[:, :, 0].astype(np.float32), "TIFF"),
        "int32.tif": encode(photo()[:, :, 0].astype(np.int32), "TIFF"),
        "lab.tif": encode(ImageCms.applyTransform(rgb, _to_lab()), "TIFF"),
    }
    return {name: Case(data=data) for name, data in files.items()} | {
        name: Case(data=data, status=ImageStatus.UNSUPPORTED) for name, data in refused.items()
    }


def _to_lab() -> ImageCms.ImageCmsTransform:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.buildTransform(*profiles, "RGB", "LAB")


def _damaged() -> dict[str, Case]:
    rgb = Image.fromarray(photo())
    jpeg, progressive = encode(rgb, "JPEG", quality=90), encode(rgb, "JPEG", progressive=True)
    cmyk = encode(rgb.convert("CMYK"), "JPEG")
    png_file, webp = encode(rgb, "PNG"), encode(rgb, "WEBP")
    tiff, lzw, bmp = encode(rgb, "TIFF"), encode(rgb, "TIFF", compression="tiff_lzw"), encode(rgb, "BMP")
    gif, avif = encode(rgb, "GIF"), encode(rgb, "AVIF", speed=10)
    half = len(jpeg) // 2
    frame = jpeg.index(b"\xff\xc0")
    scan = jpeg.index(b"\xff\xda")
    cut = {
        "half.jpg": jpeg[:half],
        "no_end.jpg": jpeg[:-2],
        "one_less.jpg": jpeg[:-1],
        "header_only.jpg": jpeg[:300],
        "three_bytes.jpg": jpeg[:3],
        "before_scan.jpg": jpeg[: scan + 1],
        "half_progressive.jpg": progressive[: len(progressive) // 2],
        "half_cmyk.jpg": cmyk[: len(cmyk) // 2],
        "half.png": png_file[: len(png_file) // 2],
        "signature.png": png_file[:8],
        "no_end.png": png_file[:-12],
        "one_less.png": png_file[:-1],
        "blank_chunk.png": png_file[:33] + b"\0\0\xff\xff\xe1\xd9\x10 and more",  # found by fuzzing, seed 13
        "half.webp": webp[: len(webp) // 2],
        "one_less.webp": webp[:-1],
        "header_only.webp": webp[:20],
        "half.tif": tiff[: len(tiff) // 2],
        "half_lzw.tif": lzw[: len(lzw) // 2],
        "signature.tif": tiff[:8],
        "half.bmp": bmp[: len(bmp) // 2],
        "header_only.bmp": bmp[:20],
        "half_bare.dib": bmp[14 : len(bmp) // 2],
        "half.gif": gif[: len(gif) // 2],
        "header_only.gif": gif[:13],
        "signature.gif": gif[:6],
        "half.avif": avif[: len(avif) // 2],
        "one_less.avif": avif[:-1],
    }
    broken = {
        "half_and_end.jpg": jpeg[:half] + b"\xff\xd9",
        "zeroed_half.jpg": jpeg[:half] + bytes(len(jpeg) - half - 2) + b"\xff\xd9",
        "flipped.jpg": flip(jpeg, len(jpeg) // 3, len(jpeg) - 10, 40),
        "flipped_cmyk.jpg": flip(cmyk, len(cmyk) // 3, len(cmyk) - 10, 40),
        "zero_height.jpg": patch_jpeg_size(jpeg, 0, SIZE[1]),
        "zero_width.jpg": patch_jpeg_size(jpeg, SIZE[0], 0),
        "taller.jpg": patch_jpeg_size(jpeg, SIZE[0] * 4, SIZE[1]),
        "two_frames.jpg": jpeg[:scan] + jpeg[frame:scan] + jpeg[scan:],
        "no_frame.jpg": jpeg[:frame] + jpeg[scan:],
        "no_picture.jpg": jpeg[:2] + b"\xff\xd9",
        "segment_length.jpg": jpeg[:2] + b"\xff\xe5\x00\x01" + jpeg[2:],
        "checksum.png": patch(png_file, len(png_file) // 2, png_file[len(png_file) // 2] ^ 0xFF),
        "checksum_itself.png": patch(png_file, len(png_file) - 13, png_file[-13] ^ 0xFF),
        "zero_width.png": png(0, 10, 8, 2, b""),
        "depth.png": png(4, 4, 3, 2, bytes(4)),
        "color_type.png": png(4, 4, 8, 5, bytes(4)),
        "no_header.png": png_file[:8] + chunk(b"IDAT", b"") + bytes(40),
        "little_data.png": png(9_000, 9_000, 8, 6, bytes(100)),
        "not_deflated.png": png_file[:33] + chunk(b"IDAT", b"x" * 5000) + chunk(b"IEND", b""),
        "first_chunk.webp": patch(webp, 12, *b"JUNK"),
        "no_size.tif": tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + bytes(6),
        "header_size.bmp": patch(bmp, 14, 5, 0, 0, 0),
        "bits.bmp": patch(bmp, 28, 7, 0),
        "no_frame.gif": gif[:781] + b";",
        "block.gif": gif[:781] + b"\x77" + gif[782:],
    }
    return {name: Case(data=data, status=ImageStatus.TRUNCATED) for name, data in cut.items()} | {
        name: Case(data=data, status=ImageStatus.CORRUPT) for name, data in broken.items()
    }


def _undetected() -> dict[str, Case]:
    """Damage that no decoder reports: pixels are wrong, and docs/images.md says so."""
    webp = encode(photo(), "WEBP")
    return {
        "flipped.webp": Case(data=flip(webp, 30, len(webp), 60)),
        "few_rows.png": Case(data=png(SIZE[1], SIZE[0], 8, 0, bytes((SIZE[1] + 1) * (SIZE[0] // 2)))),
    }


def _not_images() -> dict[str, Case]:
    rgb = Image.fromarray(photo())
    jpeg, png_file, bmp = encode(rgb, "JPEG"), encode(rgb, "PNG"), encode(rgb, "BMP")
    frame = jpeg.index(b"\xff\xc0")
    files = {
        "zero.jpg": b"",
        "one_byte.jpg": b"\xff",
        "zeros.jpg": bytes(10_000),
        "text.jpg": b"hello, not an image\n" * 50,
        "html.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "pdf.png": b"%PDF-1.7\n",
        "psd.tif": b"8BPS\0\1" + bytes(30),
        "ok.ppm": encode(rgb, "PPM"),
        "heic.jpg": b"\0\0\0\x18ftypheic" + bytes(40),
        "cr3.jpg": b"\0\0\0\x18ftypcrx " + bytes(40),
        "jp2.jpg": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
        "mp4.jpg": b"\0\0\0\x18ftypisom" + bytes(40),
        "lfs.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "bigtiff.tif": b"II+\0\x08\0\0\0" + bytes(40),
        "riff_wave.webp": b"RIFF\x24\0\0\0WAVE" + bytes(40),
        "twelve_bits.jpg": patch(jpeg, frame + 4, 12),
        "lossless.jpg": patch(jpeg, frame + 1, 0xC3),
        "arithmetic.jpg": patch(jpeg, frame + 1, 0xC9),
        "two_components.jpg": patch(jpeg, frame + 9, 2),
        "run_length.bmp": patch(bmp, 30, 1),
        "masks.bmp": masked_bmp(np.zeros((8, 8)), 0xF0F0F0F0, 0xF00, 0xF),
        "xcode.png": png_file[:8] + chunk(b"CgBI", bytes(4)) + png_file[8:],
    }
    return {name: Case(data=data, status=ImageStatus.UNSUPPORTED) for name, data in files.items()}


def _bombs() -> dict[str, Case]:
    rgb = Image.fromarray(photo())
    jpeg, tiff, bmp = encode(rgb, "JPEG"), encode(rgb, "TIFF"), encode(rgb, "BMP")
    gif, avif = encode(rgb, "GIF"), encode(rgb, "AVIF", speed=10)
    progressive = encode(rgb, "JPEG", progressive=True)
    last_scan = progressive.rindex(b"\xff\xda")
    width_tag, height_tag = (tiff.index(struct.pack("<HHI", tag, 4, 1)) for tag in (256, 257))
    large = struct.pack("<I", 30_000)
    tiff = tiff[: width_tag + 8] + large + tiff[width_tag + 12 :]
    tiff = tiff[: height_tag + 8] + large + tiff[height_tag + 12 :]
    files = {
        "13000x13000.png": zero_png(13_000, 13_000),
        "30000x30000.png": zero_png(30_000, 30_000),
        "header_32000.png": png(32_000, 32_000, 8, 6, bytes(100)),
        "header_2e9.png": png(2**31 - 1, 2**31 - 1, 16, 6, bytes(100)),
        "wide.png": zero_png(2**20, 1),
        "65500x16000.jpg": patch_jpeg_size(jpeg, 16_000, 65_500),
        "scans.jpg": progressive[:-2] + progressive[last_scan:-2] * 600 + b"\xff\xd9",
        "16383x16383.webp": b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\xfe\xbf\xff\x0f" + bytes(9),
        "canvas.webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\xff\xff" * 2,
        "30000x30000.tif": tiff,
        "30000x30000.bmp": patch(bmp, 18, *(large + large)),
        "65535x65535.gif": patch(gif, 6, 255, 255, 255, 255),
        "frame_65535.gif": patch(gif, gif.index(b",\0\0\0\0") + 5, 255, 255, 255, 255),
        "30000x30000.avif": patch(avif, avif.index(b"ispe") + 8, *struct.pack(">II", 30_000, 30_000)),
    }
    return {name: Case(data=data, status=ImageStatus.TOO_LARGE) for name, data in files.items()}
