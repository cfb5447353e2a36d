"""Which way up an image is, by the metadata it carries."""

from PIL import Image

from sam_engine.errors import ImageError
from sam_engine.images.tiff_tags import ORIENTATION, read_tags


def read_orientation(exif: bytes) -> int:
    """Return the orientation from an EXIF block; 1 if it has none, an invalid one, or is damaged."""
    try:
        value = read_tags(exif.removeprefix(b"Exif\x00\x00"), (ORIENTATION,)).get(ORIENTATION)
    except ImageError:
        return 1
    return value[0] if value and len(value) == 1 and 1 <= value[0] <= 8 else 1


def pillow_orientation(image: Image.Image) -> int:
    """Return the orientation of a loaded image as Pillow finds it; 1 for none or an invalid one."""
    value = image.getexif().get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
