"""What a header says, and the errors of files that are damaged or of a kind that is not read."""

from dataclasses import dataclass

from sam_engine.errors import ImageError
from sam_engine.structures import ImageStatus


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What the header says about the stored pixels."""

    format: str
    """JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF or HEIC."""
    width: int
    height: int
    orientation: int = 1
    """EXIF orientation in [1, 8]; 1 where there is none or an invalid one."""
    components: int = 3
    """Samples per pixel, of a JPEG, PNG or TIFF."""
    bits: int = 8
    """Per sample of a PNG or TIFF, per pixel of a BMP."""
    num_blocks: int = 0
    """Blocks of 8 x 8 samples in a JPEG. Each takes a bit of the file at the very least."""
    data_offset: int = 0
    """Where the pixels of a BMP start, in bytes."""

    @property
    def sample_bytes(self) -> int:
        """Bytes of all samples, where a pixel takes more than a byte for each of four."""
        deep = self.components * -(-self.bits // 8) if self.format in ("PNG", "TIFF") else 0
        return max(0, self.width * self.height) * deep if deep > 4 else 0


def corrupt(message: str) -> ImageError:
    """Return the error for bytes that contradict themselves."""
    return ImageError(ImageStatus.CORRUPT, message)


def truncated(message: str) -> ImageError:
    """Return the error for a file that ends too early."""
    return ImageError(ImageStatus.TRUNCATED, message)


def unsupported(message: str) -> ImageError:
    """Return the error for a file of a kind that is not read."""
    return ImageError(ImageStatus.UNSUPPORTED, message)


def one_line(text: str, *, max_chars: int = 200) -> str:
    """Return text from a decoder on one line, control characters escaped, cut where it is too long."""
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text.strip())
    return line if len(line) <= max_chars else f"{line[: max_chars - 3]}..."
