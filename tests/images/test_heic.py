"""HEIC is read where the extra is installed, and named where it is not."""

import io

import numpy as np
import pytest
from PIL import Image

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError
from sam_engine.images import heic
from sam_engine.images.decode import decode_image
from sam_engine.images.isolated import IsolatedDecoder
from sam_engine.structures import ImageStatus
from tests.corpus.image_corpus import photo

DEFAULT = DecodeConfig()


def heic_file(orientation: int = 1) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(photo())).save(buffer, quality=90, exif=exif.tobytes())
    return buffer.getvalue()


def failure(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data, DEFAULT)
    return caught.value


def test_without_the_extra_heic_is_unsupported(monkeypatch):
    """The message says what would read it."""
    monkeypatch.setattr(heic, "has_heic", lambda: False)
    error = failure(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))

    assert error.status is ImageStatus.UNSUPPORTED
    assert "sam-engine[heic]" in str(error)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_heic_is_what_pillow_heif_sees(orientation):
    """Upright, for its decoder turns it; isolated and in place alike."""
    data = heic_file(orientation)
    import pillow_heif

    expected = np.asarray(pillow_heif.open_heif(io.BytesIO(data)).to_pillow().convert("RGB"))
    decoded = decode_image(data, DEFAULT)
    with IsolatedDecoder(DEFAULT) as decoder:
        apart = decoder.decode(data)

    assert np.array_equal(decoded.pixels, expected)
    assert np.array_equal(apart.pixels, expected)
    assert decoded.exif_orientation == 1


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_cut_heic_is_truncated(kept):
    """A HEIC that ends inside a box is truncated."""
    data = heic_file()

    assert failure(data[: int(kept * len(data))]).status is ImageStatus.TRUNCATED
