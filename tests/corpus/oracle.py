"""What Pillow and tifffile see in a file, by means that share nothing with ours."""

import io
import warnings

import numpy as np
import tifffile
from PIL import Image, ImageOps

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "ICO", "PCX")


def seen(data: bytes) -> np.ndarray | None:
    """Return the first picture upright on white, (H, W, 3) uint8; None if it does not decode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if data[:4] in (b"II*\0", b"MM\0*", b"II+\0"):
                return _by_tifffile(data)
            return _by_pillow(data)
        except NotImplementedError:
            raise
        except Exception:  # noqa: BLE001 - whatever these raise, the file does not decode
            return None


def _by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[:, :, None], 3, 2)
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        return np.asarray(Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB"))
    return np.asarray(upright.convert("RGB"))


def _by_tifffile(data: bytes) -> np.ndarray:
    """Return what tifffile reads; what it needs other libraries for, Pillow reads."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        if _is_left_to_pillow(page):
            return _by_pillow(data)
        samples = page.asarray()
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            samples = np.moveaxis(samples, 0, -1)
        samples = samples.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
        return _to_rgb(samples, int(page.photometric))


def _is_left_to_pillow(page: tifffile.TiffPage) -> bool:
    """Return whether tifffile alone does not unpack a page, or its colours are not plain."""
    packed = page.compression not in (1, 8, 32946) or page.bitspersample not in (1, 8, 16, 32)
    return packed or page.photometric in (3, 5, 6) or any(kind in (1, 2) for kind in page.extrasamples)


def _to_rgb(samples: np.ndarray, photometric: int) -> np.ndarray:
    """Return (H, W, 3) uint8; black for samples that have no fixed range."""
    if samples.dtype not in (np.bool_, np.uint8, np.uint16):
        return np.zeros((*samples.shape[:2], 3), np.uint8)
    if samples.dtype == np.bool_:
        samples = samples * np.uint8(255)
    eight = samples if samples.dtype == np.uint8 else (samples >> 8).astype(np.uint8)
    eight = 255 - eight if photometric == 0 else eight
    return np.repeat(eight[:, :, :1], 3, 2) if eight.shape[2] < 3 else eight[:, :, :3]
