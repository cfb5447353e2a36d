"""decode.scale and decode.bands show what the high byte and the file's own colours do not."""

from functools import partial

import numpy as np
import pytest

from sam_engine.config import DecodeConfig
from sam_engine.errors import ConfigError, ImageError
from sam_engine.images.decode import decode_image
from sam_engine.structures import ImageStatus
from tests.corpus.image_corpus import cases, png
from tests.corpus.tiff_writer import DEFLATE, LZW, write_tiff

SIZE = (11, 17)
GREY, RGB = 1, 2


def drawn(count: int, dtype: str = "u2", top: int = 4096) -> np.ndarray:
    rng = np.random.default_rng(count)
    if dtype[0] == "f":
        return rng.normal(0, 3, (*SIZE, count)).astype(dtype)
    return rng.integers(-top if dtype[0] == "i" else 0, top, (*SIZE, count)).astype(dtype)


def png16(samples: np.ndarray) -> bytes:
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2]]
    return png(SIZE[1], SIZE[0], 16, colour, b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples))


def stretched(samples: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the formula of docs/images.md, plainly."""
    levels = np.rint(np.clip((samples.astype(float) - low) * 255 / (high - low), 0, 255)).astype(np.uint8)
    return np.repeat(levels, 3, 2) if samples.shape[2] == 1 else levels


def tiff16(samples: np.ndarray, **layout: object) -> bytes:
    return write_tiff(samples, photometric=GREY if samples.shape[2] < 3 else RGB, **layout)


FILES = {
    "grey PNG": (png16, 1),
    "RGB PNG": (png16, 3),
    "grey TIFF": (tiff16, 1),
    "RGB TIFF": (partial(tiff16, compression=LZW), 3),
    "planar TIFF": (partial(tiff16, planar=True, compression=DEFLATE), 3),
}


@pytest.mark.parametrize("kind", sorted(FILES))
@pytest.mark.parametrize("scale", ["0-4095", "min-max", "p1-p99", "100-1e3"])
def test_sixteen_bits_are_stretched(kind, scale):
    """16-bit images of every kind go by the range that is asked for, the same for all colours."""
    write, count = FILES[kind]
    samples = drawn(count)
    low, high = {
        "0-4095": (0, 4095),
        "min-max": (samples.min(), samples.max()),
        "p1-p99": np.percentile(samples, (1, 99)),
        "100-1e3": (100, 1000),
    }[scale]
    decoded = decode_image(write(samples), DecodeConfig(scale=scale))

    assert np.array_equal(decoded.pixels, stretched(samples, float(low), float(high)))
    assert decoded.note is None


@pytest.mark.parametrize("kind", sorted(FILES))
def test_low_bits_are_noted(kind):
    """12-bit data in 16 bits are nearly black, and the note says which setting shows them."""
    write, count = FILES[kind]
    decoded = decode_image(write(drawn(count)), DecodeConfig())

    assert decoded.pixels.max() < 16
    assert "lowest 12 bits" in decoded.note
    assert "decode.scale=0-4095" in decoded.note


@pytest.mark.parametrize("kind", sorted(FILES))
@pytest.mark.parametrize("top", [1, 2**16])
def test_other_images_are_not_noted(kind, top):
    """Neither an image that uses its bits nor one that is all black has a note."""
    write, count = FILES[kind]

    assert decode_image(write(drawn(count, top=top)), DecodeConfig()).note is None


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("write", [png16, partial(tiff16, extra=(2,))])
def test_transparency_is_not_stretched(write, count):
    """Alpha keeps its high byte while colours are stretched."""
    samples = drawn(count)
    samples[:, :, -1] = np.random.default_rng(0).integers(0, 2**16, SIZE)
    alpha = (samples[:, :, -1:] >> 8) / 255
    expected = np.rint(stretched(samples[:, :, :-1], 0, 4095) * alpha + 255 * (1 - alpha)).astype(np.uint8)

    assert np.array_equal(decode_image(write(samples), DecodeConfig(scale="0-4095")).pixels, expected)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "u4", "u8"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_types_without_a_range_are_read_with_one(order, count, dtype):
    """Floats, signed and wide integers are unsupported by default, and read with decode.scale."""
    samples = drawn(count, dtype, top=100)
    data = write_tiff(samples, photometric=GREY if count == 1 else RGB, order=order)
    pixels = decode_image(data, DecodeConfig(scale="min-max")).pixels
    with pytest.raises(ImageError, match=r"decode\.scale") as refused:
        decode_image(data, DecodeConfig())

    assert refused.value.status is ImageStatus.UNSUPPORTED
    assert np.array_equal(pixels, stretched(samples, float(samples.min()), float(samples.max())))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_float_differences_are_undone(dtype):
    """Predictor 3 changes no float."""
    samples = drawn(3, dtype)
    known = decode_image(write_tiff(samples, photometric=RGB), DecodeConfig(scale="min-max")).pixels
    data = write_tiff(samples, photometric=RGB, predictor=3, compression=LZW, tile=(16, 16))

    assert np.array_equal(decode_image(data, DecodeConfig(scale="min-max")).pixels, known)


def test_what_is_no_number_is_black():
    """NaN and infinities do not spoil the range; NaN comes out black, infinities at the ends."""
    samples = drawn(1, "f4")
    samples[0, :4, 0] = [np.nan, np.inf, -np.inf, 3]
    finite = samples[np.isfinite(samples)]
    pixels = decode_image(write_tiff(samples, photometric=GREY), DecodeConfig(scale="min-max")).pixels
    expected = stretched(samples[1:], float(finite.min()), float(finite.max()))

    assert pixels[0, :3, 0].tolist() == [0, 255, 0]
    assert np.array_equal(pixels[1:], expected)


@pytest.mark.parametrize("value", [0, 7, np.nan])
def test_flat_images_are_black(value):
    """An image of one value, or of none, has no range of its own."""
    samples = np.full((*SIZE, 1), value, "f4")

    assert not decode_image(write_tiff(samples, photometric=GREY), DecodeConfig(scale="min-max")).pixels.any()


@pytest.mark.parametrize("name", ["ok.jpg", "rgba.png", "ok.tif", "palette.tif", "cmyk.tif", "ok.webp"])
def test_eight_bits_stay_as_they_are(name):
    """decode.scale is for deep samples only."""
    data = cases()[name].data

    assert np.array_equal(
        decode_image(data, DecodeConfig(scale="min-max")).pixels, decode_image(data, DecodeConfig()).pixels
    )


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bands", [[1], [4], [3, 2, 1], [5, 1, 4], [2, 2, 1]])
def test_bands_are_chosen(bands, planar):
    """One band is grey, three are red, green and blue, of a file that says nothing or something else."""
    samples = drawn(5, top=2**16)
    data = write_tiff(samples, photometric=GREY, planar=planar, extra=(0,) * 4)
    expected = (samples[:, :, [band - 1 for band in bands]] >> 8).astype(np.uint8)
    expected = np.repeat(expected, 3, 2) if len(bands) == 1 else expected

    assert np.array_equal(decode_image(data, DecodeConfig(bands=bands)).pixels, expected)


def test_bands_that_are_not_there_are_unsupported():
    """An image with fewer bands than are asked for is not damaged, and says so."""
    with pytest.raises(ImageError, match=r"TIFF with 3 bands, and decode\.bands=\[4, 3, 2\]") as caught:
        decode_image(cases()["ok.tif"].data, DecodeConfig(bands=[4, 3, 2]))

    assert caught.value.status is ImageStatus.UNSUPPORTED


@pytest.mark.parametrize("scale", ["minmax", "p99-p1", "p1-p101", "5-5", "9-1", "", "0-", "high"])
def test_scales_are_checked(scale):
    """A scale that is none is refused before anything is read."""
    with pytest.raises(ConfigError, match=r"decode\.scale"):
        DecodeConfig(scale=scale)


@pytest.mark.parametrize("bands", [[0], [1, 2], [1, 2, 3, 4], [1.5], [True]])
def test_bands_are_checked(bands):
    """Bands are one or three whole numbers from 1."""
    with pytest.raises(ConfigError, match=r"decode\.bands"):
        DecodeConfig(bands=bands)
