"""What decode.strict=false lets through, and what stays refused."""

import struct
import zlib

import numpy as np
import pytest

from sam_engine.config import DecodeConfig
from sam_engine.images.decode import decode_image
from sam_engine.structures import ImageStatus
from tests.corpus.image_corpus import (
    SIZE,
    cases,
    chunk,
    encode,
    photo,
)
from tests.helpers.decoded import DEFAULT, decode, failure


def test_lenient_decoding_keeps_the_upper_half():
    """decode.strict=false keeps what a damaged JPEG still holds."""
    pixels = decode("half.jpg", strict=False)

    # 43 % of the pixel data is there; the last row of blocks mixes colours with the missing one below.
    assert np.array_equal(pixels[:31], decode("ok.jpg")[:31])
    assert pixels.shape == (*SIZE, 3)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("half.jpg", "inside the JPEG's pixels"),
        ("half_cmyk.jpg", "inside the JPEG's pixels"),
        ("zeroed_half.jpg", "Corrupt JPEG data"),
        ("ok.jpg", None),
        ("cmyk.jpg", None),
        ("ok.png", None),
    ],
)
def test_lenient_decoding_says_so(name, note):
    """An image that strict decoding refuses is marked, and no other is."""
    marked = decode_image(cases()[name].data, DecodeConfig(strict=False)).note

    assert marked == note or (marked.startswith("decoded leniently: ") and note in marked)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_broken_metadata(jpeg: bytes) -> dict[str, bytes]:
    """Return JPEGs whose pixels are sound, by what the decoder warns of."""
    version, after = jpeg.index(b"JFIF\0") + 5, jpeg.index(b"JFIF\0") + 14
    icc = segment(0xE2, b"ICC_PROFILE\0\x01\x02" + bytes(40))
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0\x07")
    return {
        "bad ICC marker": jpeg[:after] + icc + jpeg[after:],
        "extraneous bytes": jpeg[:after] + b"junk" + jpeg[after:],
        "JFIF revision": jpeg[:version] + b"\x09" + jpeg[version + 1 :],
        "Adobe color transform": jpeg[:2] + adobe + jpeg[after:],
    }


@pytest.mark.parametrize("kind", ["ok.jpg", "ok_progressive.jpg", "ok_444.jpg"])
@pytest.mark.parametrize("problem", with_broken_metadata(cases()["ok.jpg"].data))
def test_lenient_decoding_needs_no_metadata(problem, kind):
    """A JPEG whose only damage is metadata has all its pixels with decode.strict=false, and a note."""
    data = with_broken_metadata(cases()[kind].data)[problem]
    decoded = decode_image(data, DecodeConfig(strict=False))

    assert failure(data).status is ImageStatus.CORRUPT
    assert problem in decoded.note
    assert np.array_equal(decoded.pixels, decode(kind))


def test_lenient_decoding_keeps_an_rgb_jpeg_rgb():
    """The segment that says a JPEG holds RGB makes pixels, and is kept."""
    frames = encode(photo(), "JPEG", keep_rgb=True, quality=95)
    place = frames.index(b"\xff\xdb")
    decoded = decode_image(frames[:place] + b"junk" + frames[place:], DecodeConfig(strict=False))

    assert np.array_equal(decoded.pixels, decode_image(frames, DEFAULT).pixels)


@pytest.mark.parametrize("name", ["ok.png", "palette.png", "bilevel.png", "interlaced.png", "rgb16.png"])
@pytest.mark.parametrize("lost", [1, 6, 12, 13, 16])
def test_lenient_decoding_needs_no_end_mark(name, lost):
    """A PNG that ends after its last pixel is whole with decode.strict=false, and is marked.

    The last four bytes but twelve are the checksum of the last pixels.
    """
    data = interlaced_png() if name == "interlaced.png" else cases()[name].data
    decoded = decode_image(data[:-lost], DecodeConfig(strict=False))

    assert failure(data[:-lost]).status is ImageStatus.TRUNCATED
    assert decoded.note.startswith("decoded leniently: the file ends after")
    assert np.array_equal(decoded.pixels, decode_image(data, DEFAULT).pixels)


def test_lenient_decoding_needs_no_sound_end_mark():
    """Its checksum guards nothing."""
    data = cases()["ok.png"].data
    decoded = decode_image(data[:-1] + b"x", DecodeConfig(strict=False))

    assert failure(data[:-1] + b"x").status is ImageStatus.CORRUPT
    assert "wrong checksum of PNG chunk IEND" in decoded.note
    assert np.array_equal(decoded.pixels, decode("ok.png"))


@pytest.mark.parametrize("lost", [17, 500])
def test_lenient_decoding_misses_no_pixel_of_a_png(lost):
    """A PNG that ends inside its pixels is truncated all the same; so is one of too few rows."""
    data = cases()["ok.png"].data
    few_rows = cases()["few_rows.png"].data

    assert failure(data[:-lost], strict=False).status is ImageStatus.TRUNCATED
    assert failure(few_rows[:-12], strict=False).status is ImageStatus.TRUNCATED


def interlaced_png() -> bytes:
    """Return an Adam7 PNG of 3 x 5 grey pixels, whose passes are partly empty."""
    raw = b"".join(
        b"\0" + bytes(range(columns))
        for columns, rows in ((1, 1), (1, 1), (1, 2), (2, 1), (1, 3), (3, 2))
        for _ in range(rows)
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 5, 8, 0, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("predecessor", ["ok.jpg", "ok_444.jpg", "grey.jpg"])
@pytest.mark.parametrize("name", ["half.jpg", "half_and_end.jpg", "zeroed_half.jpg", "flipped.jpg"])
def test_missing_pixels_are_not_those_of_another_image(name, predecessor):
    """What a damaged file lacks is never filled with what lay in the memory before."""
    lenient = DecodeConfig(strict=False, max_pixels=SIZE[0] * SIZE[1])
    buffer = np.zeros(3 * lenient.max_pixels, np.uint8)
    expected = decode_image(cases()[name].data, lenient, buffer).pixels.copy()
    decode_image(cases()[predecessor].data, lenient, buffer)

    assert np.array_equal(decode_image(cases()[name].data, lenient, buffer).pixels, expected)
