"""The frames of a video file, as PNG images named ``name.mp4#000123``.

Frames are always decoded in order from the start, because seeking lands on other frames in some formats: the
same frame is the same pixels in whichever worker.
"""

import functools
import itertools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2

from sam_engine.config import DecodeConfig, VideoConfig
from sam_engine.errors import ImageError, InputError
from sam_engine.inputs.source import (
    Account,
    InputFile,
    ListingRules,
    container_mtime_ns,
    listed,
    short_name,
)
from sam_engine.structures import ImageStatus, ManifestEntry, Origin

_KEPT_FRAMES = 16
_CLOCK_S = 0.001


@dataclass(frozen=True, kw_only=True)
class VideoInput:
    """The frames that decode, or those of them that the rules ask for. Sizes are not known beforehand."""

    name: str
    root: str
    """The video itself."""
    rules: ListingRules = field(default_factory=ListingRules)

    def iter_files(self, account: Account | None = None) -> Iterator[InputFile]:
        """Yield one image a frame, counted by decoding, because containers lie about their length."""
        return listed(self._walk, f"no frame of {self.root!r} can be decoded", account)

    def _walk(self, account: Account) -> Iterator[InputFile]:
        """Yield one image a frame."""
        mtime_ns = os.stat(self.root).st_mtime_ns
        prefix = _frame_prefix(self.root)
        times, stated = _frame_times(self.root)
        count = len(times)
        if count + max(2, stated // 50) < stated:
            problem = (
                f"input {self.root!r} is not whole: {count} frames decode of the {stated} that it states"
            )
            account.accept(problem, self.rules)
        for frame in chosen_frames(times, self.rules.video):
            origin = Origin(frame_time_s=times[frame])
            yield InputFile(path=prefix + b"%06d" % frame, size=0, mtime_ns=mtime_ns, origin=origin)

    def read(self, entry: ManifestEntry, config: DecodeConfig) -> bytes:
        """Return one frame as a PNG file. A new time of the video is no change: the bytes are hashed."""
        mtime_ns = container_mtime_ns(self.root)
        number = int(entry.path.removeprefix(_frame_prefix(self.root)))
        return _frames(self.root, mtime_ns).png(number)


class _FrameReader:
    """One open video and the last few frames, because several threads ask a little out of order."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._capture = cv2.VideoCapture(path)
        self._next = 0

    def png(self, number: int) -> bytes:
        """Return frame ``number``; decodes all frames before it that were not passed yet."""
        with self._lock:
            if number in self._kept:
                return self._kept[number]
            if number < self._next:
                self._capture.release()
                self._capture = cv2.VideoCapture(self._path)
                self._next = 0
            while self._next < number:
                self._grab()
            self._grab()
            ok, pixels = self._capture.retrieve()
            if not ok:
                raise ImageError(ImageStatus.CORRUPT, f"frame {number} of the video does not decode")
            ok, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            assert ok
            self._kept[number] = encoded.tobytes()
            if len(self._kept) > _KEPT_FRAMES:
                self._kept.popitem(last=False)
            return self._kept[number]

    def _grab(self) -> None:
        """Step to the next frame."""
        if not self._capture.grab():
            raise ImageError(ImageStatus.CORRUPT, f"the video ends before frame {self._next}")
        self._next += 1


def open_video(path: str, rules: ListingRules) -> VideoInput:
    """Return the frames of a video.

    Raises:
        InputError: The path holds what OpenCV cannot take, or the file does not open as a video.
    """
    # OpenCV crashes the process on a str with surrogates, and takes others for patterns of image sequences.
    if not path.isprintable() or "%" in path:
        raise InputError(f"input {path!r}: rename the video to plain printable characters without %")
    capture = cv2.VideoCapture(path)
    is_open = capture.isOpened()
    capture.release()
    if not is_open:
        raise InputError(f"input {path!r} does not open as a video")
    return VideoInput(name=short_name(path), root=path, rules=rules)


def chosen_frames(times: Sequence[float | None], video: VideoConfig) -> list[int]:
    """Return the numbers of the frames to take.

    Args:
        times: Of all frames, in seconds from the start; None where it is not known.
        video: Which to take.

    Raises:
        InputError: A rate is asked for, and the video does not say when its frames are.
    """
    if video.rate_hz is None:
        return list(range(0, len(times), video.every or 1))
    chosen, due = [], 0
    for frame, time_s in enumerate(times):
        if time_s is None:
            raise InputError("video.rate_hz: the video has no time stamps; take video.every")
        # A stamp is rounded to its container's clock, by up to a millisecond.
        tick = math.floor((time_s + _CLOCK_S) * video.rate_hz)
        if tick >= due:
            chosen.append(frame)
            due = tick + 1
    return chosen


def _frame_times(path: str) -> tuple[list[float | None], int]:
    """Return the time of each frame that decodes from the start, and how many frames the file states.

    Times are those of the container. Where they do not grow, they are counted by the stated frame rate; where
    there is none either, they are None. The number stated is 0 if there is none.
    """
    capture = cv2.VideoCapture(path)
    stated, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    stamps = []
    while capture.grab():
        stamps.append(round(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, 6))
    capture.release()
    grow = all(math.isfinite(stamp) for stamp in stamps) and all(
        earlier < later for earlier, later in itertools.pairwise(stamps)
    )
    times: list[float | None] = [*stamps]
    if not grow:
        is_rate = math.isfinite(rate) and rate > 0
        times = [round(frame / rate, 6) if is_rate else None for frame in range(len(stamps))]
    return times, int(stated) if 0 < stated < 2**31 else 0


def _frame_prefix(path: str) -> bytes:
    """Return what the names of a video's frames start with."""
    return os.fsencode(os.path.basename(path)) + b"#"


@functools.lru_cache(maxsize=1)
def _frames(path: str, _mtime_ns: int) -> _FrameReader:
    """Return this process's reader of a video."""
    return _FrameReader(path)
