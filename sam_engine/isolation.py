"""Image decoding in a child process, so that no file can crash, hang or bloat the process that asked.

File and pixels go through one block of shared memory, read and written with system calls and never mapped: a
child that misbehaves can give wrong bytes or too few, but not a bus error. Requests (8 bytes: the file's
length) and answers (4 bytes of length, then JSON) go through the child's stdin and stdout.
"""

import contextlib
import json
import math
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError, SamEngineError
from sam_engine.images import DecodedImage, decode_image, one_line
from sam_engine.structures import ImageStatus

_COMMAND = (sys.executable, "-m", "sam_engine.isolation")
_START_TIMEOUT_S = 120.0
_MAX_ANSWER_BYTES = 65_536
# Python and its libraries, then per pixel: Pillow's picture, one conversion, the array, its turned copy.
_BASE_BYTES = 512 * 2**20
_BYTES_PER_PIXEL = 16
_MAX_OPEN_FILES = 32
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
        self._shared = _shared_memory()

    def decode(self, data: bytes) -> DecodedImage:
        """Return what `decode_image` returns.

        Raises:
            ImageError: As `decode_image`; also DECODER_CRASH if the child died, TIMEOUT if it took too long.
            SamEngineError: The child does not start at all.
        """
        with self._lock:
            child = self._running_child()
            try:
                self._shared.seek(0)
                self._shared.write(data)
                _stream(child.stdin).write(len(data).to_bytes(8, "little"))
                return self._take(_receive(child, self._timeout_s))
            except TimeoutError:
                self._stop()
                message = f"decoding took longer than {self._timeout_s:g} s"
                raise ImageError(ImageStatus.TIMEOUT, message) from None
            except (EOFError, BrokenPipeError):
                raise self._bury(child) from None

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
        shared = self._shared.fileno()
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
        """Return the image, or raise the `ImageError`, that an answer stands for."""
        if "status" in answer:
            raise ImageError(ImageStatus(answer["status"]), one_line(str(answer["error"]), max_chars=500))
        height, width, orientation = (int(answer[key]) for key in ("height", "width", "orientation"))
        if not (0 < height * width <= self._config.max_pixels and min(height, width) > 0):
            raise EOFError
        pixels = np.empty((height, width, 3), np.uint8)
        self._shared.seek(0)
        view, done = pixels.data.cast("B"), 0
        while done < len(view):
            count = self._shared.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            done += count
        return DecodedImage(pixels=pixels, exif_orientation=orientation)

    def _bury(self, child: subprocess.Popen[bytes]) -> ImageError:
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


def serve(decode: Callable[[bytes, DecodeConfig], DecodedImage] = decode_image) -> None:
    """Decode what the parent asks for until it closes stdin. The child's whole life; settings are in argv."""
    settings = json.loads(sys.argv[-1])
    config, shared = DecodeConfig(**settings["config"]), settings["shared"]
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _MAX_OPEN_FILES,
        resource.RLIMIT_DATA: _BASE_BYTES + 2 * config.max_file_bytes + _BYTES_PER_PIXEL * config.max_pixels,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    _send(answers, {})
    while request := os.read(0, 8):
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = math.ceil(used.ru_utime + used.ru_stime + settings["timeout_s"])
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        with os.fdopen(shared, "r+b", buffering=0, closefd=False) as memory:
            memory.seek(0)
            data = memory.read(int.from_bytes(request, "little"))
            try:
                image = decode(data, config)
            except ImageError as error:
                _send(answers, {"status": error.status.value, "error": str(error)})
                continue
            memory.seek(0)
            view, done = image.pixels.data.cast("B"), 0
            while done < len(view):
                done += memory.write(view[done:])
        height, width, _channels = image.pixels.shape
        _send(answers, {"height": height, "width": width, "orientation": image.exif_orientation})


def _shared_memory() -> BinaryIO:
    """Return an unbuffered file without a name that lives in memory, where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("sam-engine-image"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


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
    except (ValueError, TypeError):
        raise EOFError from None
    return answer


def _stream(stream: Any) -> BinaryIO:
    """Return a pipe of a child that was made with pipes."""
    assert stream is not None
    pipe: BinaryIO = stream
    return pipe


if __name__ == "__main__":
    serve()
