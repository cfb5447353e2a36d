"""TIFFs of every layout that is read have the pixels that tifffile sees; others are called unsupported."""

import io
import itertools

import numpy as np
import pytest
import tifffile

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError
from sam_engine.images.decode import decode_image
from sam_engine.structures import ImageStatus
from tests.corpus.tiff_writer import DEFLATE, JPEG, LZW, NONE, PACKBITS, write_tiff

DEFAULT = DecodeConfig()
SIZE = (37, 53)
WHITE, BLACK, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5
KINDS = {"grey": (BLACK, 1, None), "rgb": (RGB, 3, None), "rgbn": (RGB, 4, (0,)), "bands": (BLACK, 3, (0, 0))}
CHUNKS = {"strip": {}, "strips": {"rows_per_strip": 5}, "tiles": {"tile": (16, 32)}}


def drawn(count: int, bits: int = 8, kind: str = "u", size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return (H, W, count) noise over smooth structure, of all values that so many bits hold."""
    rng = np.random.default_rng(count * 100 + bits)
    whole = np.dtype(f"{kind}{max(1, (bits + 7) // 8)}")
    if kind == "f":
        return rng.normal(0, 3, (*size, count)).astype(whole)
    low = -(2 ** (bits - 1)) if kind == "i" else 0
    return rng.integers(low, low + 2**bits, (*size, count), dtype=whole)


def by_tifffile(data: bytes) -> np.ndarray:
    """Return (H, W, S) samples of the first page."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        samples = page.asarray()
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            samples = np.moveaxis(samples, 0, -1)
        return samples.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)


def failure(data: bytes, **settings: object) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data, DecodeConfig(**settings))
    return caught.value


def expected_rgb(samples: np.ndarray, bits: int) -> np.ndarray:
    """Return the table of docs/images.md for grey and RGB without alpha."""
    eight = samples * np.uint8(255 // (2**bits - 1)) if bits < 8 else (samples >> (bits - 8)).astype(np.uint8)
    return np.repeat(eight, 3, 2) if eight.shape[2] == 1 else eight[:, :, :3]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_layouts_equal_tifffile(kind, bits):
    """Planar or not, strips or tiles, compressed or not, in either byte order: the samples are tifffile's."""
    photometric, count, extra = KINDS[kind]
    samples = drawn(count, bits)
    for planar, compression, chunks, order in itertools.product(
        (False, True), (NONE, DEFLATE, LZW, PACKBITS), CHUNKS, "<>"
    ):
        layout = {"planar": planar, "order": order, "photometric": photometric, **CHUNKS[chunks]}
        data = write_tiff(samples, bits=bits, compression=compression, extra=extra, **layout)
        # tifffile alone unpacks neither LZW and PackBits nor 2 and 4 bits: there it is shown the same
        # samples, in the same layout, as whole bytes that are not compressed
        alone = compression in (NONE, DEFLATE) and bits not in (2, 4)
        known = data if alone else write_tiff(samples, extra=extra, **layout)

        seen = by_tifffile(known)
        seen = seen.astype(np.uint8) if seen.dtype == bool else seen
        pixels = decode_image(data, DEFAULT).pixels

        assert np.array_equal(pixels, expected_rgb(seen, bits)), (planar, compression, chunks, order)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("chunks", sorted(CHUNKS))
@pytest.mark.parametrize("compression", [LZW, DEFLATE])
def test_horizontal_differences_are_undone(compression, chunks, planar, bits):
    """Predictor 2 changes no pixel."""
    samples = drawn(3, bits)
    data = write_tiff(
        samples, photometric=RGB, predictor=2, planar=planar, compression=compression, **CHUNKS[chunks]
    )

    assert np.array_equal(decode_image(data, DEFAULT).pixels, expected_rgb(samples, bits))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("count", [1, 3])
def test_packed_samples_keep_their_high_bits(count, bits):
    """Samples of 10, 12 and 14 bits are shifted by what they have above 8, not by 8."""
    samples = drawn(count, bits)
    data = write_tiff(samples, photometric=BLACK if count == 1 else RGB, bits=bits)

    assert np.array_equal(decode_image(data, DEFAULT).pixels, expected_rgb(samples, bits))


@pytest.mark.parametrize("compression", [NONE, LZW])
def test_reversed_bits_are_turned_round(compression):
    """FillOrder 2 changes no pixel."""
    samples = drawn(1, 1)
    data = write_tiff(samples, photometric=BLACK, bits=1, reversed_bits=True, compression=compression)

    assert np.array_equal(decode_image(data, DEFAULT).pixels, expected_rgb(samples, 1))


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_white_is_zero_is_inverted(bits):
    """Grey whose zero is white comes out as seen, at every width."""
    samples = drawn(1, bits)
    pixels = decode_image(write_tiff(samples, photometric=WHITE, bits=bits), DEFAULT).pixels

    assert np.array_equal(pixels, 255 - expected_rgb(samples, bits))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize(
    ("photometric", "count", "kinds"), [(RGB, 4, (2,)), (BLACK, 2, (2,)), (BLACK, 4, (0, 0, 2))]
)
def test_alpha_of_every_layout_is_composited(photometric, count, kinds, planar, bits):
    """Transparency among the extra samples is mixed with the background, wherever it is stored."""
    samples = drawn(count, bits)
    data = write_tiff(samples, photometric=photometric, planar=planar, extra=kinds)
    eight = (samples >> (bits - 8)).astype(float)
    alpha = eight[:, :, -1:] / 255
    colours = np.repeat(eight[:, :, :1], 3, 2) if count == 2 else eight[:, :, :3]
    expected = np.rint(colours * alpha + 40 * (1 - alpha)).astype(np.uint8)

    assert np.array_equal(decode_image(data, DecodeConfig(background=40)).pixels, expected)


def test_premultiplied_colours_are_divided():
    """Colours stored multiplied by alpha are half transparent once, not twice."""
    samples = np.full((4, 4, 4), 100, np.uint8)
    samples[:, :, 3] = 200
    data = write_tiff(samples, photometric=RGB, extra=(1,))
    expected = round((100 * 255 / 200 * 200 + 30 * 55) / 255)

    assert np.all(abs(decode_image(data, DecodeConfig(background=30)).pixels.astype(int) - expected) <= 1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_are_looked_up(bits):
    """A palette's 16-bit values give their high byte."""
    samples = drawn(1, bits)
    colormap = np.random.default_rng(3).integers(0, 2**16, (3, 2**bits))
    tags = {320: (3, tuple(colormap.ravel().tolist()))}
    data = write_tiff(samples, photometric=PALETTE, bits=bits, tags=tags)

    assert np.array_equal(decode_image(data, DEFAULT).pixels, (colormap >> 8).T[samples[:, :, 0]])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planar", [False, True])
def test_inks_of_every_layout_are_mixed(planar, bits):
    """CMYK follows its rule in planes and in 16 bits too."""
    samples = drawn(4, bits)
    cmyk = (samples >> (bits - 8)).astype(float)
    expected = np.clip(255 - cmyk[:, :, :3] * (255 - cmyk[:, :, 3:]) / 255 - cmyk[:, :, 3:], 0, 255)
    pixels = decode_image(write_tiff(samples, photometric=CMYK, planar=planar), DEFAULT).pixels

    assert np.abs(pixels - expected).max() <= 1


UNSUPPORTED = {
    "float": write_tiff(drawn(1, 32, "f"), photometric=BLACK),
    "floating point": write_tiff(drawn(3, 32, "f"), photometric=RGB),
    "signed 16": write_tiff(drawn(1, 16, "i"), photometric=BLACK),
    "unsigned 32": write_tiff(drawn(3, 32), photometric=RGB),
    "4 bands": write_tiff(drawn(4), photometric=BLACK, extra=(0, 0, 0)),
    "4 bands, red, green": write_tiff(drawn(4), photometric=BLACK, planar=True, extra=(0, 0, 0)),
    "5-bit samples": write_tiff(drawn(1, 5), photometric=BLACK, bits=5),
    "differ: bits": write_tiff(drawn(3), photometric=RGB, tags={258: (3, (8, 8, 4))}),
    "mosaic": write_tiff(drawn(1), photometric=32803),
    "LogLuv": write_tiff(drawn(3), photometric=32845),
    "Lab": write_tiff(drawn(3), photometric=8),
    "inks other": write_tiff(drawn(4), photometric=CMYK, tags={332: (3, (2,))}),
    "compression of WebP": write_tiff(drawn(3), photometric=RGB, tags={259: (3, (50001,))}),
    "compression of LERC": write_tiff(drawn(3), photometric=RGB, tags={259: (3, (34887,))}),
    "compression of kind 999": write_tiff(drawn(3), photometric=RGB, tags={259: (3, (999,))}),
    "JPEG compression of 4 samples": write_tiff(drawn(4), photometric=RGB, tags={259: (3, (JPEG,))}),
    "sparse": write_tiff(
        drawn(1), photometric=BLACK, tags={322: (4, (64,)), 323: (4, (64,)), 324: (4, (0,))}
    ),
    "raw file": write_tiff(drawn(3), photometric=RGB, tags={50706: (1, (1, 4, 0, 0))}),
    "predictor 5": write_tiff(drawn(1), photometric=BLACK, compression=LZW, tags={317: (3, (5,))}),
    "subsampled YCbCr": write_tiff(drawn(3), photometric=6),
}


@pytest.mark.parametrize("words", sorted(UNSUPPORTED))
def test_kinds_that_are_not_read_are_not_called_damaged(words):
    """A sound file of a kind that is not read is unsupported, and the sentence says which kind it is."""
    error = failure(UNSUPPORTED[words])

    assert error.status is ImageStatus.UNSUPPORTED
    assert all(word in str(error) for word in words.split())


@pytest.mark.parametrize("compression", [NONE, DEFLATE, LZW, PACKBITS])
@pytest.mark.parametrize("chunks", sorted(CHUNKS))
def test_cut_files_are_truncated(chunks, compression):
    """A file that ends before its last strip or tile does is truncated, whatever the layout."""
    data = write_tiff(drawn(3, 16), photometric=RGB, compression=compression, **CHUNKS[chunks])

    assert failure(data[:-10]).status is ImageStatus.TRUNCATED


@pytest.mark.parametrize("compression", [DEFLATE, LZW])
def test_damaged_strips_are_corrupt(compression):
    """A strip that does not unpack to its rows is damage."""
    data = write_tiff(drawn(3), photometric=RGB, compression=compression, rows_per_strip=5)
    middle = len(data) // 2

    assert failure(data[:middle] + bytes(200) + data[middle + 200 :]).status is ImageStatus.CORRUPT


def test_strips_that_hold_too_much_are_read():
    """Some writers fill the last strip up to the height of the others; its checksum counts all the same."""
    samples = drawn(1, size=(8, 6))
    data = write_tiff(samples, photometric=BLACK, compression=DEFLATE, tags={257: (4, (5,))})
    damaged = data[:-1] + bytes([data[-1] ^ 1])

    assert np.array_equal(decode_image(data, DEFAULT).pixels, expected_rgb(samples, 8)[:5])
    assert failure(damaged).status is ImageStatus.CORRUPT


@pytest.mark.parametrize("tag", [258, 262, 277, 284, 339])
def test_tags_that_cannot_be_read_are_damage(tag):
    """A tag of an impossible type is not taken for one that is missing, which would mean something else."""
    data = bytearray(write_tiff(drawn(1, 16), photometric=BLACK))
    entry = next(at for at in range(10, len(data), 12) if data[at : at + 2] == tag.to_bytes(2, "little"))
    data[entry + 3] = 0x26

    assert failure(bytes(data)).status is ImageStatus.CORRUPT


def test_samples_beyond_the_memory_allowed_are_too_large():
    """Samples beyond what an image of the largest size may take are refused by arithmetic."""
    deep = write_tiff(drawn(3, 64, size=(1500, 600)), photometric=RGB, tags={277: (3, (3,))})

    assert failure(deep, max_pixels=900_000, scale="min-max").status is ImageStatus.TOO_LARGE


def test_small_images_may_lie_in_large_tiles():
    """A tile of which a small image fills a corner is read, also where no larger image is allowed."""
    data = write_tiff(drawn(3, size=(8, 8)), photometric=RGB, tile=(512, 512))

    assert decode_image(data, DecodeConfig(max_pixels=64)).pixels.shape == (8, 8, 3)
