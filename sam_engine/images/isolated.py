"""Image decoding in a child process, so that no file can crash, hang or bloat the process that asked.

File and pixels go through memory that both share (`shared_block`); the child decodes JPEGs right into it.
Requests (8 bytes: the file's length) and answers (4 bytes of length, then JSON) go through the child's stdin
and stdout.
"""

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError, SamEngineError
from sam_engine.images.decode import DecodedImage, decode_image
from sam_engine.images.headers import read_header
from sam_engine.images.image_header import one_line
from sam_engine.images.shared_block import SharedBlock
from sam_engine.images.tiff_samples import MAX_SAMPLE_BYTES
from sam_engine.structures import ImageStatus

Decode = Callable[[bytes, DecodeConfig, NDArray[np.uint8]], DecodedImage]
"""File, settings, and a flat array that the pixels may be put into."""

_COMMAND = (
    sys.executable,
    "-P",
    "-m",
    "sam_engine.images.isolated",
)  # -P: no module of the working directory
_START_TIMEOUT_S = 120.0
_MAX_ANSWER_BYTES = 65_536
# Python and its libraries, then per pixel: Pillow's picture, one conversion, the array, its turned copy.
_BASE_BYTES = 512 * 2**20
_BYTES_PER_PIXEL = 16
_COPIES_OF_SAMPLES = 3  # deep ones: as they were unpacked, as numbers, and for a moment one of either more
_MAX_OPEN_FILES = 32
_NO_IMAGE = {"height": 0, "width": 0, "orientation": 1}
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")


class IsolatedDecoder:
    """`decode_image` in one child process, started when first needed and again after it died.

    One image at a time: a lock makes other threads wait. Give each decoding thread its own.
    """

    def __init__(
        self, config: DecodeConfig, *, timeout_s: float = 60.0, command: Sequence[str] = _COMMAND
    ) -> None:
        """Keep the settings; nothing is started yet.

        Args:
            config: Of every image.
            timeout_s: Wall time, and CPU time, that one image may take.
            command: What to run as the child. It must call `serve`.
        """
        self._config = config
        self._timeout_s = timeout_s
        self._command = tuple(command)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._shared = SharedBlock.create(config)

    def decode(self, data: bytes) -> DecodedImage:
        """Return what `decode_image` returns.

        Raises:
            ImageError: As `decode_image`; also DECODER_CRASH if the child died, TIMEOUT if it took too long.
            SamEngineError: The child does not start at all.
        """
        if len(data) > self._config.max_file_bytes:
            message = f"{len(data)} bytes are more than decode.max_file_bytes={self._config.max_file_bytes}"
            raise ImageError(ImageStatus.TOO_LARGE, message)
        with self._lock:
            child = self._running_child()
            try:
                self._shared.put_file(data)
                _stream(child.stdin).write(len(data).to_bytes(8, "little"))
                return self._take(_receive(child, self._timeout_s))
            except TimeoutError:
                self._stop()
                message = f"decoding took longer than {self._timeout_s:g} s"
                raise ImageError(ImageStatus.TIMEOUT, message) from None
            except (EOFError, BrokenPipeError):
                raise self._crash_error(child) from None

    def close(self) -> None:
        """End the child and free the shared memory."""
        with self._lock:
            self._stop()
            self._shared.close()

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _running_child(self) -> subprocess.Popen[bytes]:
        """Return a child that has answered."""
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._stop()
        environment = {key: os.environ[key] for key in _KEPT_ENVIRONMENT if key in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        shared = self._shared.descriptor
        settings = {"config": asdict(self._config), "timeout_s": self._timeout_s, "shared": shared}
        with tempfile.TemporaryFile() as messages:
            child = subprocess.Popen(  # noqa: S603 - our own program
                [*self._command, json.dumps(settings)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                env=environment,
                pass_fds=(shared,),
                process_group=0,  # or Ctrl-C, meant for the parent, would count as a crash of the image
            )
            self._child = child
            try:
                _receive(child, _START_TIMEOUT_S)
            except (EOFError, TimeoutError):
                self._stop()
                messages.seek(0)
                reason = one_line(messages.read().decode(errors="replace").strip().rpartition("\n")[2])
                raise SamEngineError(f"the decoding process does not start: {reason}") from None
        return child

    def _take(self, answer: dict[str, Any]) -> DecodedImage:
        """Return the image, or raise the `ImageError`, that an answer stands for.

        Raises:
            EOFError: The answer is none that a sound child gives.
        """
        try:
            failure = ImageStatus(answer["status"]) if "status" in answer else None
            text = None if answer["note"] is None else one_line(str(answer["note"]), max_chars=500)
            height, width, orientation = (int(answer[key]) for key in ("height", "width", "orientation"))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise EOFError from None
        if failure is not None:
            raise ImageError(failure, text or "")
        if min(height, width) < 1 or height * width > self._config.max_pixels or not 1 <= orientation <= 8:
            raise EOFError
        pixels = self._shared.take_pixels(height, width)
        return DecodedImage(pixels=pixels, exif_orientation=orientation, note=text)

    def _crash_error(self, child: subprocess.Popen[bytes]) -> ImageError:
        """Return the error for a child that died or talks nonsense."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=1.0)
        code = child.returncode
        self._stop()
        if code == -signal.SIGXCPU:
            return ImageError(
                ImageStatus.TIMEOUT, f"decoding took more than {self._timeout_s:g} s of CPU time"
            )
        cause = f"exited with {code}"
        if code is None:
            cause = "gave no sensible answer"
        elif code < 0:
            cause = f"was killed by {signal.Signals(-code).name}"
        return ImageError(ImageStatus.DECODER_CRASH, f"the decoding process {cause}")

    def _stop(self) -> None:
        """Kill and reap the child, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            _stream(self._child.stdin).close()
            _stream(self._child.stdout).close()
            self._child = None


@contextlib.contextmanager
def open_decoder(config: DecodeConfig) -> Iterator[Callable[[bytes], DecodedImage]]:
    """Yield a function that decodes as the settings ask: in a child process, or in this one."""
    if not config.isolate:
        yield lambda data: decode_image(data, config)
        return
    with IsolatedDecoder(config) as decoder:
        yield decoder.decode


def serve(decode: Decode = decode_image) -> None:
    """Decode what the parent asks for until it closes stdin. The child's whole life; settings are in argv."""
    settings = json.loads(sys.argv[-1])
    config = DecodeConfig(**settings["config"])
    shared = SharedBlock.attach(settings["shared"], config)
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    limit_process(config)
    _send(answers, {})
    while request := os.read(0, 8):
        data = shared.take_file(int.from_bytes(request, "little"))
        limit_image(data, settings["timeout_s"])
        try:
            image = decode(data, config, shared.pixels)
        except ImageError as error:
            _send(answers, {"status": error.status.value, "note": str(error), **_NO_IMAGE})
            continue
        height, width, _channels = image.pixels.shape
        shared.put_pixels(image.pixels)
        answer = {"height": height, "width": width, "orientation": image.exif_orientation, "note": image.note}
        _send(answers, answer)


def limit_process(config: DecodeConfig) -> None:
    """Limit this process for good, as one that decodes images."""
    import resource  # late: systems without it decode in the process that asks

    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _MAX_OPEN_FILES,
        resource.RLIMIT_FSIZE: 0,  # nothing is written, and what a library prints cannot fill a disk
        resource.RLIMIT_DATA: _memory_limit(
            config.max_file_bytes, config.max_pixels, MAX_SAMPLE_BYTES * config.max_pixels
        ),
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def limit_image(data: bytes, timeout_s: float) -> None:
    """Limit what one image may take: CPU time from now on, and memory by the size that its header claims."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime + timeout_s)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    try:
        header = read_header(data)
        num_pixels, sample_bytes = max(0, header.width * header.height), header.sample_bytes
    except ImageError:
        num_pixels = sample_bytes = 0
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = min(_memory_limit(len(data), num_pixels, sample_bytes), most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def _memory_limit(num_bytes: int, num_pixels: int, sample_bytes: int) -> int:
    """Return how much memory a child may have for a file, its pixels and deep samples, in bytes."""
    samples = _COPIES_OF_SAMPLES * sample_bytes
    return _BASE_BYTES + 3 * num_bytes + _BYTES_PER_PIXEL * num_pixels + samples


def _send(descriptor: int, answer: dict[str, Any]) -> None:
    """Write one answer."""
    body = json.dumps(answer).encode()
    os.write(descriptor, len(body).to_bytes(4, "little") + body)


def _receive(child: subprocess.Popen[bytes], timeout_s: float) -> dict[str, Any]:
    """Return one answer.

    Raises:
        TimeoutError: It took too long.
        EOFError: The child died, or sent something else than an answer.
    """
    stream, deadline, body = _stream(child.stdout), time.monotonic() + timeout_s, b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while len(body) < 4 or len(body) < 4 + int.from_bytes(body[:4], "little"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            part = stream.read(_MAX_ANSWER_BYTES)
            body += part
            if not part or int.from_bytes(body[:4], "little") > _MAX_ANSWER_BYTES:
                raise EOFError
    try:
        answer: dict[str, Any] = dict(json.loads(body[4:]))
    except (ValueError, TypeError, RecursionError):
        raise EOFError from None
    return answer


def _stream(stream: Any) -> BinaryIO:
    """Return a pipe of a child that was made with pipes."""
    assert stream is not None
    pipe: BinaryIO = stream
    return pipe


if __name__ == "__main__":
    serve()
