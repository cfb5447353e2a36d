"""Mutated image files against the decoder, with the limits of the process that decodes in a run.

Every format and decoder takes part. A mutation cuts, flips bits or bytes, deletes, inserts, overwrites
numbers of the header, splices two files, or mends the checksums that it broke, so that damage gets past them.
"""

import mmap
import random
import struct
import zlib
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError
from sam_engine.images.decode import decode_image
from sam_engine.images.isolated import IsolatedDecoder, limit_image, limit_process
from tests.corpus.image_corpus import encode, masked_bmp, photo, png
from tests.corpus.tiff_writer import DEFLATE, LZW, PACKBITS, write_tiff

from .fuzzing import Step, fuzz, serve
from .result import Result

SIZE = (48, 64)
JPEG_SIZE = (120, 160)
HANG_S = 10.0
MAX_CHILD_BYTES = 2**30
WRONG_LEVELS = 3.0
"""Mean difference to the sound picture from which on one is called wrong, in grey levels."""
ISOLATED_EVERY = 100
"""Of so many inputs, one goes through a decoding process as a run has it, and must end the same way."""
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
CONFIG = DecodeConfig()


@cache
def sound_files() -> Mapping[str, bytes]:
    """Return the files that are mutated, by a name that begins with their format."""
    picture = Image.fromarray(photo()[: SIZE[0], : SIZE[1]])
    large = Image.fromarray(photo()).resize(JPEG_SIZE[::-1], Image.Resampling.BICUBIC)
    alpha = picture.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(picture.size))
    grey = picture.convert("L")
    deep = (np.asarray(grey).astype(np.uint16) << 8) | 0x5A
    deep_colours = np.asarray(picture).astype(np.uint16) << 8
    palette = picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [picture.rotate(90, expand=False)]}
    return {
        "jpeg baseline": encode(large, "JPEG", quality=90),
        "jpeg 444": encode(large, "JPEG", quality=75, subsampling=0),
        "jpeg progressive": encode(large, "JPEG", progressive=True),
        "jpeg restart": encode(large, "JPEG", restart_marker_blocks=4),
        "jpeg grey": encode(large.convert("L"), "JPEG"),
        "jpeg cmyk": encode(large.convert("CMYK"), "JPEG"),
        "jpeg exif": encode(large, "JPEG", exif=exif),
        "png rgb": encode(picture, "PNG"),
        "png rgba": encode(alpha, "PNG"),
        "png palette": encode(palette, "PNG", transparency=3),
        "png grey16": encode(deep, "PNG"),
        "png bilevel": encode(picture.convert("1"), "PNG"),
        "webp lossy": encode(picture, "WEBP", quality=80),
        "webp lossless": encode(alpha, "WEBP", lossless=True),
        "webp animated": encode(picture, "WEBP", **frames),
        "tiff raw": encode(picture, "TIFF"),
        "tiff lzw": encode(picture, "TIFF", compression="tiff_lzw"),
        "tiff deflate": encode(alpha, "TIFF", compression="tiff_adobe_deflate"),
        "tiff jpeg": encode(picture, "TIFF", compression="jpeg"),
        "tiff g4": encode(picture.convert("1"), "TIFF", compression="group4"),
        "bmp rgb": encode(picture, "BMP"),
        "bmp palette": encode(palette, "BMP"),
        "bmp masks": masked_bmp(np.arange(48 * 64).reshape(SIZE), 0xF800, 0x7E0, 0x1F, bits=16),
        "png rgb16": png(
            64, 48, 16, 2, b"".join(b"\0" + row.tobytes() for row in deep_colours.astype(">u2"))
        ),
        "tiff planes16": write_tiff(
            deep_colours, photometric=2, planar=True, compression=DEFLATE, predictor=2
        ),
        "tiff tiles16": write_tiff(deep_colours, photometric=2, compression=LZW, tile=(16, 32)),
        "tiff packbits": write_tiff(deep_colours, photometric=2, compression=PACKBITS, rows_per_strip=5),
        "gif palette": encode(palette, "GIF", transparency=3),
        "gif animated": encode(picture, "GIF", **frames),
        "avif lossy": encode(picture, "AVIF", speed=10),
        "avif alpha": encode(alpha, "AVIF", speed=10, exif=exif),
    }


def make_input(seed: int, number: int) -> tuple[str, bytes]:
    """Return which file input ``number`` of a seed comes from, and its bytes."""
    names = list(sound_files())
    name = names[number % len(names)]
    source = random.Random(f"{seed}/{number}")
    data = bytearray(sound_files()[name])
    for _ in range(source.choice((1, 1, 1, 2))):
        data = _mutate(data, source)
    if name.startswith("png") and source.random() < 0.5:
        data = mend_png(data)
    return name, bytes(data)


def _mutate(data: bytearray, source: random.Random) -> bytearray:
    """Return the data with one kind of damage."""
    if not data:
        return data
    length, kind = len(data), source.randrange(8)
    place = source.randrange(source.choice((min(64, length), min(700, length), length)))
    if kind == 0:
        del data[source.randrange(length) :]
    elif kind == 1:
        for _ in range(source.randrange(1, 8)):
            data[source.randrange(length)] ^= 1 << source.randrange(8)
    elif kind == 2:
        for _ in range(source.randrange(1, 30)):
            data[source.randrange(length)] = source.randrange(256)
    elif kind == 3:
        del data[place : place + source.randrange(1, 400)]
    elif kind == 4:
        data[place:place] = source.randbytes(source.randrange(1, 64))
    elif kind == 5:
        value, width = source.choice(NUMBERS), source.choice((1, 2, 4))
        number = (value & (1 << 8 * width) - 1).to_bytes(width, source.choice(("big", "little")))
        data[place : place + width] = number
    elif kind == 6:
        other = source.choice(list(sound_files().values()))
        start = source.randrange(len(other))
        data[place:] = other[start:] if source.random() < 0.5 else other[min(place, len(other)) :]
    else:
        start = source.randrange(length)
        data[place:place] = data[start : start + source.randrange(1, 200)]
    return data


def mend_png(data: bytearray) -> bytearray:
    """Return a PNG whose chunks have sound checksums again, as far as they can be told."""
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        struct.pack_into(">I", data, end - 4, zlib.crc32(data[position + 4 : end - 4]))
        position = end
    return data


def make_step(seed: int) -> Step:
    """Return what decodes one input: its outcome is a format, and a status or how sound the picture is."""
    limit_process(CONFIG)
    room = mmap.mmap(-1, 3 * CONFIG.max_pixels)
    buffer = np.frombuffer(room, np.uint8)
    expected = {name: decode_image(data, CONFIG).pixels.copy() for name, data in sound_files().items()}

    def step(number: int) -> str:
        name, data = make_input(seed, number)
        limit_image(data, STEP_TIMEOUT_S)
        try:
            pixels = decode_image(data, CONFIG, buffer).pixels
        except ImageError as error:
            return f"{name}: {error.status if str(error).isprintable() else 'unprintable'}"
        verdict = _compare(pixels, expected[name])
        if pixels.nbytes > 2**26:
            room.madvise(mmap.MADV_DONTNEED)
        return f"{name}: {verdict}"

    return step


STEP_TIMEOUT_S = 60.0


def _compare(pixels: np.ndarray, expected: np.ndarray) -> str:
    """Return same, changed (some pixel differs) or wrong (much differs, or the size)."""
    if pixels.shape != expected.shape:
        return "wrong"
    if np.array_equal(pixels, expected):
        return "same"
    return "wrong" if np.abs(pixels.astype(np.int16) - expected).mean() >= WRONG_LEVELS else "changed"


def run_decode(_work: Path, count: int, seed: int) -> Result:
    """Decode mutated files; crashes, hangs, too much memory and unequal isolation are violations."""
    found = fuzz("decode", 0, count, seed)
    result = Result(campaign="decode", injected=count, violations=list(found.crashes))
    for key, number in found.outcomes.items():
        name, _, outcome = key.partition(": ")
        result.by_kind[name.partition(" ")[0]] += number
        result.outcomes[outcome or name] += number
    if found.slowest_s > HANG_S:
        result.violations.append(
            f"seed {seed}: input {found.slowest} took {found.slowest_s:.1f} s of CPU time"
        )
    if result.outcomes["unprintable"]:
        result.violations.append(f"seed {seed}: {result.outcomes['unprintable']} messages are not printable")
    if found.peak_bytes > MAX_CHILD_BYTES:
        result.violations.append(f"a child had {found.peak_bytes / 2**20:.0f} MB")
    compared = _compare_isolated(count, seed, result.violations)
    result.details = {
        "slowest": f"{found.slowest_s:.2f} s of CPU",
        "peak": f"{found.peak_bytes / 2**20:.0f} MB",
        "through the pipe": compared,
        "silent": silent_damage(found.outcomes),
    }
    return result


def silent_damage(outcomes: Counter[str]) -> dict[str, str]:
    """Return for each kind of file how often its mutations decode to another picture, unnoticed."""
    table = {}
    for name in sound_files():
        of_name = {key.partition(": ")[2]: n for key, n in outcomes.items() if key.startswith(f"{name}: ")}
        total = sum(of_name.values())
        if total:
            wrong, changed = of_name.get("wrong", 0), of_name.get("changed", 0)
            table[name] = f"{(wrong + changed) / total:.1%} ({wrong / total:.1%} wrong)"
    return table


def _compare_isolated(count: int, seed: int, violations: list[str]) -> int:
    """Send some inputs through an `IsolatedDecoder`; note where it ends otherwise. Return how many."""
    numbers = range(0, count, ISOLATED_EVERY)
    with IsolatedDecoder(CONFIG) as decoder:
        for number in numbers:
            _, data = make_input(seed, number)
            answers = []
            for decode in (decoder.decode, lambda data: decode_image(data, CONFIG)):
                try:
                    image = decode(data)
                    answers.append((image.pixels.shape, image.pixels.tobytes(), image.exif_orientation))
                except ImageError as error:
                    answers.append((error.status, str(error)))
            if answers[0] != answers[1]:
                violations.append(f"seed {seed}: input {number} ends otherwise in a child")
    return len(numbers)


if __name__ == "__main__":
    serve(make_step)
