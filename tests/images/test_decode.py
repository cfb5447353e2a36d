"""Every kind of file gets the pixels or the status that docs/images.md promises."""

import io
import random

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError
from sam_engine.images import decode as decode_module
from sam_engine.images.decode import decode_image
from sam_engine.images.image_header import one_line
from sam_engine.images.kinds import says_no_image
from sam_engine.structures import ImageStatus
from tests.corpus.image_corpus import (
    SIZE,
    Case,
    cases,
    chunk,
    encode,
    masked_bmp,
    patch_jpeg_size,
    photo,
    png,
)
from tests.helpers.decoded import DEFAULT, decode, failure

KINDS = {
    "HEIC": b"\0\0\0\x18ftypheic",
    "HEIF": b"\0\0\0\x18ftypmif1",
    "sequence of HEIC": b"\0\0\0\x18ftyphevc",
    "CR3": b"\0\0\0\x18ftypcrx ",
    "JP2": b"\0\0\0\x0cjP  \r\n\x87\n",
    "JPEG 2000": b"\xff\x4f\xff\x51",
    "JPEG XL": b"\xff\x0a",
    "JPEG XR": b"II\xbc\x01",
    "JPEG-LS": b"\xff\xd8\xff\xf7\0\x0b",
    "PSD": b"8BPS\0\x01",
    "XCF": b"gimp xcf v011",
    "BigTIFF": b"II+\0",
    "ORF": b"IIRO",
    "RAF": b"FUJIFILMCCD-RAW",
    "OpenEXR": b"v/1\x01",
    "HDR": b"#?RADIANCE\n",
    "DDS": b"DDS ",
    "QOI": b"qoif",
    "ICO": b"\0\0\x01\0",
    "PCX": b"\x0a\x05\x01",
    "SGI": b"\x01\xda",
    "FITS": b"SIMPLE  =",
    "DICOM": bytes(128) + b"DICM",
    "PPM": b"P6\n8 8\n255\n",
    "PGM": b"P5 8 8 255\n",
    "ICNS": b"icns",
    "WMF": b"\xd7\xcd\xc6\x9a",
    "MNG": b"\x8aMNG",
}


@pytest.mark.parametrize("name", sorted(cases()))
def test_every_file_gets_its_status(name):
    """Each file of the corpus gets its golden status; those that decode are contiguous uint8 RGB."""
    case: Case = cases()[name]
    try:
        pixels, status = decode_image(case.data, DEFAULT).pixels, ImageStatus.OK
    except ImageError as error:
        status = error.status
        line = str(error)

        assert line
        assert line.isprintable()
        assert len(line) < 250

    assert status is case.status
    if status is ImageStatus.OK:
        assert pixels.shape == (*case.size, 3)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable


def test_corpus_is_large_enough():
    """The corpus covers what reliability demands: more than 75 files, every status a decoder can give."""
    found = {case.status for case in cases().values()}

    assert len(cases()) > 120
    assert found == {
        ImageStatus.OK,
        ImageStatus.CORRUPT,
        ImageStatus.TRUNCATED,
        ImageStatus.TOO_LARGE,
        ImageStatus.UNSUPPORTED,
    }


@pytest.mark.parametrize("name", [name for name, case in cases().items() if case.status == "too_large"])
def test_bombs_are_refused_by_their_header(name, monkeypatch):
    """No decoder sees a bomb. How fast they are refused is what `python -m tests.faults bombs` tells."""

    def decoded(*_arguments, **_settings):
        raise AssertionError("a decoder was asked")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decoded)
    monkeypatch.setattr(decode_module, "to_rgb", decoded)

    assert failure(cases()[name].data).status is ImageStatus.TOO_LARGE


@pytest.mark.parametrize(
    "name",
    [
        "ok.png",
        "ztxt.png",
        "iccp.png",
        "damaged_text.png",
        "animated.png",
        "ok_lossless.webp",
        "ok.tif",
        "ok_lzw.tif",
        "bad_tag.tif",
        "multipage.tif",
        "ok.bmp",
        "png_as.jpg",
        "rgb16.png",
    ],
)
def test_lossless_formats_give_back_the_pixels(name):
    """Lossless files decode to exactly what went in; animations and page stacks to their first frame."""
    assert np.array_equal(decode(name), photo())


@pytest.mark.parametrize("name", [n for n in cases() if n.startswith(("ok", "tail", "fill")) and "jpg" in n])
def test_jpegs_equal_pillow(name):
    """JPEG pixels are those of libjpeg-turbo, whoever calls it."""
    expected = np.asarray(Image.open(io.BytesIO(cases()[name].data)))

    assert np.array_equal(decode(name), expected)


@pytest.mark.parametrize(
    "name", ["ok.gif", "animated.gif", "ok.avif", "avif_as.jpg", "animated.avif", "ok.mpo", "ok.dib"]
)
def test_first_pictures_equal_pillow(name):
    """Of GIF, AVIF and MPO the first picture is read, and is what Pillow sees."""
    expected = np.asarray(Image.open(io.BytesIO(cases()[name].data)).convert("RGB"))

    assert np.array_equal(decode(name), expected)


def test_bare_bitmap_is_a_bmp():
    """A .dib without a file header has the pixels of the BMP that it was cut from."""
    assert np.array_equal(decode("bare.dib"), decode("ok.bmp"))


def test_transparent_gif_is_composited():
    """The transparent colour of a GIF is background."""
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    pixels = decode_image(encode(image, "GIF", transparency=1), DecodeConfig(background=7)).pixels

    assert pixels[0].tolist() == [[10, 20, 30], [7, 7, 7]]


@pytest.mark.parametrize(("name", "start"), sorted(KINDS.items()))
def test_kinds_that_are_not_read_are_named(name, start):
    """A picture of a kind that is not read says which, by its bytes; it is not taken for no image at all."""
    error = failure(start + bytes(200))

    assert error.status is ImageStatus.UNSUPPORTED
    assert name in str(error)
    assert not says_no_image(str(error))


def test_no_images_are_told_from_kinds_that_are_not_read():
    """Text, archives and videos are no images of another kind."""
    no_images = (b"", b"hello", b"<html>", b"PK\x03\x04", b"%PDF-1.7", b"\x1f\x8b", b"\0\0\0\x18ftypisom")

    assert all(says_no_image(str(failure(data))) for data in no_images)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.bmp", "grey.jpg"])
def test_grey_is_repeated(name):
    """Grey goes to all three channels unchanged."""
    expected = np.asarray(Image.open(io.BytesIO(cases()[name].data)))

    assert np.array_equal(decode(name), np.repeat(expected[:, :, None], 3, 2))


@pytest.mark.parametrize("name", ["grey16.png", "grey16.tif"])
def test_sixteen_bits_are_shifted(name):
    """16-bit grey keeps its high byte; it does not saturate to white."""
    assert np.array_equal(decode(name), np.repeat(photo()[:, :, :1], 3, 2))


@pytest.mark.parametrize("background", [0, 128, 255])
@pytest.mark.parametrize("name", ["rgba.png", "rgba.webp", "rgba.tif"])
def test_alpha_is_composited(name, background):
    """Transparency is mixed with the background, rounded to nearest."""
    alpha = np.arange(SIZE[1])[None, :, None] / 255
    rgb = np.asarray(Image.open(io.BytesIO(cases()[name].data)))[
        :, :, :3
    ]  # lossless WebP drops hidden colours
    expected = np.rint(rgb * alpha + background * (1 - alpha)).astype(np.uint8)

    assert np.array_equal(decode(name, background=background), expected)


def test_hidden_colour_stays_hidden():
    """Where alpha is 0 the colour below it plays no part."""
    hidden = np.zeros((4, 4, 4), np.uint8)
    hidden[:, :, 0] = 255

    assert np.all(decode_image(encode(hidden, "PNG"), DEFAULT).pixels == 255)


def test_grey_with_alpha_is_composited():
    """Grey at alpha 128 lies half way between itself and the background."""
    grey = np.asarray(Image.open(io.BytesIO(cases()["grey_alpha.png"].data)).getchannel("L")) * (128 / 255)

    assert np.array_equal(decode("grey_alpha.png")[:, :, 1], np.rint(grey + 255 * 127 / 255).astype(np.uint8))


def test_transparent_palette_entry_becomes_background():
    """The palette entry named by tRNS is background, the others keep their colour."""
    indices = np.asarray(Image.open(io.BytesIO(cases()["palette_transparent.png"].data)))
    pixels, opaque = decode("palette_transparent.png", background=7), decode("palette.png")

    assert np.all(pixels[indices == 3] == 7)
    assert np.array_equal(pixels[indices != 3], opaque[indices != 3])


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_colour_key_becomes_background(bits):
    """A grey level named by tRNS is background, told in the file's own bits."""
    samples = np.array([[[3, 9], [3, 8]]] if bits == 16 else [[3], [4]], np.uint8)
    key = chunk(b"tRNS", b"\x03\x09" if bits == 16 else b"\x00\x03")
    raw = b"\0" + samples.tobytes()

    pixels = decode_image(png(2, 1, bits, 0, raw, key), DecodeConfig(background=200)).pixels

    assert pixels[0, :, 0].tolist() == ([200, 3] if bits == 16 else [200, 4])


def test_sixteen_bit_colour_key_is_ignored():
    """A 16-bit RGB colour key cannot be told from its neighbours in 8 bits, so pixels keep their colour."""
    raw = b"\0" + b"\x05\x00" * 3
    data = png(1, 1, 16, 2, raw, chunk(b"tRNS", b"\x00\x05" * 3))

    assert decode_image(data, DEFAULT).pixels.tolist() == [[[5, 5, 5]]]


@pytest.mark.parametrize("name", ["cmyk.jpg", "cmyk.tif"])
def test_cmyk_follows_the_written_rule(name):
    """Each channel is 255 - ink * (255 - black) / 255 - black; profiles are ignored."""
    cmyk = np.asarray(Image.open(io.BytesIO(cases()[name].data))).astype(float)
    expected = np.clip(255 - cmyk[:, :, :3] * (255 - cmyk[:, :, 3:]) / 255 - cmyk[:, :, 3:], 0, 255)

    assert np.abs(decode(name) - expected).max() <= 1  # Pillow rounds the product first


def test_bilevel_is_black_and_white():
    """One bit becomes 0 or 255."""
    assert set(np.unique(decode("bilevel.png"))) == {0, 255}
    assert np.array_equal(decode("bilevel.png"), decode("bilevel_g4.tif"))


def test_jpegs_are_decoded_into_the_buffer():
    """Where there is room, an upright JPEG is put there and nowhere else; the pixels are the same."""
    config = DecodeConfig(max_pixels=SIZE[0] * SIZE[1])
    buffer = np.zeros(3 * config.max_pixels, np.uint8)
    pixels = decode_image(cases()["ok.jpg"].data, config, buffer).pixels

    assert np.shares_memory(pixels, buffer)
    assert np.array_equal(pixels, decode("ok.jpg"))


def test_jpeg_too_short_for_its_size_is_refused_before_memory_is_taken():
    """Every block takes a bit: a frame header that claims more blocks than the file has bits is a lie."""
    data = patch_jpeg_size(cases()["ok.jpg"].data, 8_000, 12_000)

    assert failure(data).status is ImageStatus.TRUNCATED
    assert "too few for a JPEG of 12000 x 8000 pixels" in str(failure(data, strict=False))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_emptiest_jpegs_are_long_enough(progressive, subsampling):
    """An image of one colour, which takes the fewest bits there can be, is not taken for a lie."""
    grey = np.full((2000, 3000, 3), 128, np.uint8)
    options = {"subsampling": subsampling, "progressive": progressive, "optimize": True, "quality": 1}

    assert decode_image(encode(grey, "JPEG", **options), DEFAULT).pixels.shape == grey.shape


def test_lenient_decoding_does_not_lift_caps():
    """decode.strict=false is about damage, not about size."""
    assert failure(cases()["65500x16000.jpg"].data, strict=False).status is ImageStatus.TOO_LARGE


@pytest.mark.parametrize("name", ["ok.jpg", "ok.png", "ok.webp", "ok.tif", "ok.bmp"])
def test_caps_are_settings(name):
    """The caps hold exactly, and the message names the setting."""
    data = cases()[name].data
    num_pixels = SIZE[0] * SIZE[1]

    assert decode_image(data, DecodeConfig(max_pixels=num_pixels, max_side=SIZE[1])).pixels.size
    assert "decode.max_pixels" in str(failure(data, max_pixels=num_pixels - 1))
    assert "decode.max_side" in str(failure(data, max_side=SIZE[1] - 1))


def test_truncation_says_where():
    """The message of a truncated file names the byte where it ends."""
    data = cases()["half.jpg"].data

    assert f"after {len(data)} bytes" in str(failure(data))


def test_impossible_sizes_are_refused_before_memory_is_taken():
    """A PNG whose data cannot inflate to its size is refused by arithmetic."""
    assert "cannot fill 9000 x 9000" in str(failure(cases()["little_data.png"].data))


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (32, (0xFF0000, 0xFF00, 0xFF)),
        (32, (0xFF, 0xFF00, 0xFF0000)),
        (32, (0x3FF00000, 0xFFC00, 0x3FF)),
        (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
        (16, (0xF800, 0x7E0, 0x1F)),
        (16, (0x7C00, 0x3E0, 0x1F)),
        (16, (0xF00, 0xF0, 0xF)),
    ],
)
def test_bit_masks_are_read(bits, masks):
    """Colours of a BMP lie where its masks say, and are stretched over 8 bits."""
    packed = np.random.default_rng(0).integers(0, 2**bits, (5, 7), dtype=np.uint64)
    levels = [(packed & mask) / mask for mask in masks]
    alpha = np.floor(levels[3] * 255) / 255 if len(masks) == 4 else 1
    expected = [np.floor(level * 255 + 1e-6) * alpha + 255 * (1 - alpha) for level in levels[:3]]
    pixels = decode_image(masked_bmp(packed, *masks, bits=bits), DEFAULT).pixels

    assert np.array_equal(pixels, np.rint(np.stack(expected, -1)).astype(np.uint8))


def test_control_characters_are_escaped():
    """Nothing from a file can start a new log line or talk to a terminal."""
    assert one_line("a\n\x1b[2J\udcffé") == r"a\n\x1b[2J\udcffé"
    assert len(one_line("x" * 1000)) == 200


@pytest.mark.parametrize(
    "name", ["ok.jpg", "ok_progressive.jpg", "cmyk.jpg", "rgba.png", "ok.webp", "ok_lzw.tif", "ok.bmp"]
)
def test_mutated_files_decode_or_are_refused(name):
    """Whatever bytes change, the answer is an image within the caps or an ImageError of one line."""
    original = cases()[name].data
    source = random.Random(name)
    lines, sizes = [], [0]
    for _ in range(150):
        data = bytearray(original)
        for _ in range(source.randrange(1, 8)):
            position = source.randrange(min(len(data), source.choice((64, 700, len(data)))))
            data[position : position + source.choice((0, 1, 1, 4))] = source.randbytes(
                source.choice((0, 1, 1, 4))
            )
        try:
            pixels = decode_image(bytes(data), DecodeConfig(max_pixels=1_000_000)).pixels
        except ImageError as error:
            lines.append(str(error))
        else:
            sizes.append(pixels.shape[0] * pixels.shape[1])

    assert all(map(str.isprintable, lines))
    assert max(sizes) <= 1_000_000
    assert len(lines) + len(sizes) == 151
