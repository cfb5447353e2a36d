"""Images are turned upright, whatever says how they lie."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from sam_engine.config import DecodeConfig
from sam_engine.images.decode import decode_image, turn_upright
from tests.corpus.image_corpus import (
    chunk,
    encode,
)
from tests.helpers.decoded import DEFAULT

CORNERS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))


# Where the stored corners (top left, top right, bottom left, bottom right) must be seen, by orientation.
SEEN = {
    1: (0, 1, 2, 3),
    2: (1, 0, 3, 2),
    3: (3, 2, 1, 0),
    4: (2, 3, 0, 1),
    5: (0, 2, 1, 3),
    6: (2, 0, 3, 1),
    7: (3, 1, 2, 0),
    8: (1, 3, 0, 2),
}


def corner_image() -> np.ndarray:
    image = np.empty((32, 48, 3), np.uint8)
    image[:16, :24], image[:16, 24:], image[16:, :24], image[16:, 24:] = CORNERS
    return image


def corners(pixels: np.ndarray) -> tuple[int, ...]:
    """Return which of CORNERS is nearest to each corner of an image."""
    found = pixels[[4, 4, -5, -5], [4, -5, 4, -5]].astype(int)
    return tuple(np.abs(found[:, None] - np.array(CORNERS)).sum(-1).argmin(-1).tolist())


def with_orientation(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    return encode(corner_image(), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_applied(kind, orientation):
    """All eight orientations show the corners where a viewer shows them."""
    decoded = decode_image(with_orientation(kind, orientation), DEFAULT)

    assert decoded.exif_orientation == orientation
    assert decoded.pixels.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    assert corners(decoded.pixels) == SEEN[orientation]
    assert decoded.pixels.flags.c_contiguous


def xmp(orientation: int, *, element: bool = False) -> bytes:
    field = (
        f"<tiff:Orientation>{orientation}</tiff:Orientation>"
        if element
        else f'tiff:Orientation="{orientation}"'
    )
    return f"<x:xmpmeta><rdf:RDF {'>' * element}{field}</rdf:RDF></x:xmpmeta>".encode()


def oriented_files(orientation: int) -> dict[str, bytes]:
    """Return files that are turned by other metadata than an EXIF block."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    profile = b"\nexif\n%8d\n" % len(exif.tobytes()) + exif.tobytes().hex().encode() + b"\n"
    plain = encode(corner_image(), "PNG")
    packet, name = xmp(orientation), b"XML:com.adobe.xmp\0"
    texts = {
        "PNG, raw profile": chunk(b"tEXt", b"Raw profile type exif\0" + profile),
        "PNG, packed raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        "PNG, XMP": chunk(b"iTXt", name + b"\0\0\0\0" + packet),
        "PNG, packed XMP": chunk(b"iTXt", name + b"\x01\0\0\0" + zlib.compress(packet)),
        "PNG, both differ": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))
        + chunk(b"iTXt", name + b"\0\0\0\0" + xmp(3)),
        "PNG, damaged": chunk(b"iTXt", name + b"\x01\0\0\0" + packet),
    }
    files = {title: plain[:33] + text + plain[33:] for title, text in texts.items()}
    files["PNG, after the pixels"] = plain[:-12] + texts["PNG, XMP"] + plain[-12:]
    for kind in ("JPEG", "WEBP", "TIFF", "GIF"):
        options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "TIFF": {"tiffinfo": {700: packet}}}
        given = {} if kind == "TIFF" else {"xmp": packet}
        files[f"{kind}, XMP"] = encode(corner_image(), kind, **given, **options.get(kind, {}))
    files["JPEG, element"] = encode(corner_image(), "JPEG", quality=95, xmp=xmp(orientation, element=True))
    files["JPEG, EXIF first"] = encode(corner_image(), "JPEG", quality=95, xmp=xmp(3), exif=exif)
    exif[0x0112] = 0
    files["JPEG, invalid EXIF"] = encode(corner_image(), "JPEG", quality=95, xmp=packet, exif=exif)
    return files


@pytest.mark.parametrize("orientation", [1, 2, 5, 6, 8, 9])
@pytest.mark.parametrize("title", sorted(oriented_files(1)))
def test_other_metadata_turns_as_pillow_does(title, orientation):
    """Orientation in XMP and in ImageMagick's profiles is what Pillow's exif_transpose makes of it."""
    data = oriented_files(orientation)[title]
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))

    assert np.array_equal(decode_image(data, DEFAULT).pixels, expected)


@pytest.mark.parametrize("orientation", [0, 9, 99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_invalid_orientation_is_none(kind, orientation):
    """Orientations that do not exist count as 1."""
    decoded = decode_image(with_orientation(kind, orientation), DEFAULT)

    assert decoded.exif_orientation == 1
    assert corners(decoded.pixels) == SEEN[1]


@pytest.mark.parametrize("type_", [1, 3, 4, 6, 7, 8, 9])
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_of_any_type_turns_as_pillow_does(order, type_):
    """A number of another type than EXIF asks for turns the image where Pillow's exif_transpose turns it."""
    form = {1: "B3x", 3: "H2x", 4: "I", 6: "b3x", 7: "B3x", 8: "h2x", 9: "i"}[type_]
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHI{form}", 0x0112, type_, 1, 6)
    block = mark + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)
    data = encode(corner_image(), "JPEG", quality=95, exif=b"Exif\0\0" + block)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))

    assert decode_image(data, DEFAULT).pixels.shape[:2] == expected.size[::-1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_can_be_ignored(kind):
    """decode.exif=false keeps pixels as stored and reports that nothing was applied."""
    decoded = decode_image(with_orientation(kind, 6), DecodeConfig(exif=False))

    assert decoded.exif_orientation == 1
    assert corners(decoded.pixels) == SEEN[1]


def test_damaged_exif_is_no_orientation():
    """An EXIF block that makes no sense does not cost the image."""
    data = with_orientation("JPEG", 6)
    offset = data.index(b"Exif\0\0") + 10

    decoded = decode_image(data[:offset] + b"\xff\xff\xff\xff" + data[offset + 4 :], DEFAULT)

    assert decoded.exif_orientation == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_is_a_permutation_of_pixels(orientation):
    """No pixel is lost or doubled by any orientation."""
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    turned = turn_upright(image, orientation)

    assert sorted(map(tuple, turned.reshape(-1, 3))) == sorted(map(tuple, image.reshape(-1, 3)))
