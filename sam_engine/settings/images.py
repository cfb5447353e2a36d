"""Settings of images: which frames of a video are some, and how files become pixels."""

import math
import re
from dataclasses import dataclass, field

from sam_engine.settings.checks import check_setting, check_types

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
SCALE_PATTERN = re.compile(
    rf"min-max|p(?P<first>\d+(?:\.\d+)?)-p(?P<last>\d+(?:\.\d+)?)|(?P<low>{_NUMBER})-(?P<high>{_NUMBER})"
)

MAX_STORED_SIDE = 65_500
"""Of an image that is stored, in pixels: JPEG holds no longer ones."""


def _is_scale(text: str) -> bool:
    """Return whether this is a value of ``decode.scale``, lower end first."""
    match = SCALE_PATTERN.fullmatch(text)
    if match is None:
        return False
    if match["first"]:
        return float(match["first"]) < float(match["last"]) <= 100
    return match["low"] is None or float(match["low"]) < float(match["high"])


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How files become pixels, and which are refused."""

    strict: bool = True
    """Refuse JPEGs whose decoder reports damage. False keeps what could be decoded of them, and says so."""
    isolate: bool | None = None
    """Decode in child processes with resource limits, so that no file can take a worker down. None: unless
    executor=inline."""
    max_pixels: int = 100_000_000
    """Larger images are refused by their header (status too_large)."""
    max_side: int = 32_768
    """Longer sides are refused likewise, in pixels."""
    max_file_bytes: int = 256 * 2**20
    """Larger files are refused unread, in bytes."""
    exif: bool = True
    """Turn images upright by their EXIF orientation. False: take pixels as stored."""
    background: int = 255
    """Grey level that transparent pixels are composited on, in [0, 255]."""
    scale: str | None = None
    """How samples of more than 8 bits become 8. ``min-max``: from the lowest to the highest of each image;
    ``p1-p99``: between percentiles of each image; ``0-4095``: between these values. None: the high byte of 16
    bits, and floating-point, signed and 32-bit samples are refused. 8-bit images stay as they are."""
    bands: list[int] = field(default_factory=list)
    """Which samples of a TIFF pixel are shown, counted from 1: one as grey, or three as red, green and blue.
    Empty: those that the file calls colours. Other formats have no bands."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self, "decode.")
        for name in ("max_pixels", "max_side", "max_file_bytes"):
            value = getattr(self, name)
            check_setting(f"decode.{name}", value, value >= 1, "at least 1")
        check_setting("decode.background", self.background, 0 <= self.background <= 255, "in [0, 255]")
        known = self.scale is None or _is_scale(self.scale)
        check_setting(
            "decode.scale", self.scale, known, "min-max, percentiles as p1-p99, or a range as 0-4095"
        )
        ok = len(self.bands) in (0, 1, 3) and all(type(band) is int and band >= 1 for band in self.bands)
        check_setting("decode.bands", self.bands, ok, "one or three samples, counted from 1, such as [3,2,1]")


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """Which frames of a video are images. Without a setting all are."""

    every: int | None = None
    """Take every so manieth frame, from the first on."""
    rate_hz: float | None = None
    """Take so many frames a second by their time stamps: the first one at or after each multiple of
    ``1 / rate_hz`` seconds, none twice."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self, "video.")
        if self.every is not None:
            check_setting("video.every", self.every, self.every >= 1, "at least 1")
        if self.rate_hz is not None:
            is_rate = self.rate_hz > 0 and math.isfinite(self.rate_hz)
            check_setting("video.rate_hz", self.rate_hz, is_rate, "above 0 and finite")
            check_setting("video.every", self.every, self.every is None, "left out with video.rate_hz")

    @property
    def is_set(self) -> bool:
        """Frames are left out."""
        return self.every is not None or self.rate_hz is not None
