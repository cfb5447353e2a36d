"""A decoder that crashes, hangs, lies or eats memory costs one image, never the process that asked."""

import functools
import os
import sys
import time

import numpy as np
import pytest
from corpus.image_corpus import cases

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError, SamEngineError
from sam_engine.images import decode_image
from sam_engine.isolation import IsolatedDecoder
from sam_engine.structures import ImageStatus

DEFAULT = DecodeConfig()
GOOD = cases()["ok.jpg"].data
# A child whose decoder does what the file says: the only way to misbehave on purpose, out of reach of config.
CHILD = """
import os, signal, sys, time
import numpy as np
from sam_engine.images import decode_image
from sam_engine.isolation import serve
def decode(data, config):
    if data == b"crash": os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"exit": os._exit(7)
    if data == b"hang": time.sleep(1000)
    if data == b"spin":
        while True: pass
    if data == b"lie": os.write(ANSWERS, b"nonsense, and no length"); time.sleep(1000)
    if data == b"files": return [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    if data == b"memory":
        try: np.ones(8 * 2**30, np.uint8)
        except MemoryError: print("printed by a library"); return decode_image(b"refused", config)
    if data == b"environment": return decode_image(("SECRET" in os.environ) * b"<" or b"%PDF", config)
    return decode_image(data, config)
ANSWERS = os.dup(1)
serve(decode)
"""
COMMAND = (sys.executable, "-c", CHILD)


@pytest.fixture(scope="module")
def decoder():
    with IsolatedDecoder(DecodeConfig(max_pixels=10_000_000), command=COMMAND, timeout_s=20) as decoder:
        yield decoder


def failure(decoder: IsolatedDecoder, data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decoder.decode(data)
    return caught.value


def test_every_file_has_the_same_result(decoder):
    """Isolated or not, each file of the corpus has the same pixels or the same status and message."""
    config = DecodeConfig(max_pixels=10_000_000)

    def result(decode, data: bytes) -> tuple:
        try:
            image = decode(data)
        except ImageError as error:
            return error.status, str(error)
        return (
            image.pixels.shape,
            image.pixels.tobytes(),
            image.exif_orientation,
            image.pixels.flags.writeable,
        )

    for name, case in cases().items():
        expected = result(functools.partial(decode_image, config=config), case.data)

        assert result(decoder.decode, case.data) == expected, name


@pytest.mark.parametrize(("request_bytes", "cause"), [(b"crash", "SIGSEGV"), (b"exit", "exited with 7")])
def test_crash_costs_one_image(decoder, request_bytes, cause):
    """A dead child is that image's status; the next image finds a new child."""
    error = failure(decoder, request_bytes)

    assert error.status is ImageStatus.DECODER_CRASH
    assert cause in str(error)
    assert decoder.decode(GOOD).pixels.any()


def test_too_many_files_are_a_crash(decoder):
    """A child cannot open files without end."""
    assert failure(decoder, b"files").status is ImageStatus.DECODER_CRASH


def test_nonsense_is_a_crash(decoder):
    """An answer that is no answer is not believed, and the child not kept."""
    assert failure(decoder, b"lie").status is ImageStatus.DECODER_CRASH
    assert decoder.decode(GOOD).pixels.any()


def test_memory_is_limited(decoder):
    """8 GiB are refused inside the child; what a library prints is not taken for an answer."""
    assert failure(decoder, b"memory").status is ImageStatus.UNSUPPORTED


def test_environment_is_not_inherited(monkeypatch):
    """Credentials of the parent are not there to be stolen."""
    monkeypatch.setenv("SECRET", "x")
    with IsolatedDecoder(DEFAULT, command=COMMAND) as decoder:
        assert "a PDF" in str(failure(decoder, b"environment"))


@pytest.mark.parametrize("request_bytes", [b"hang", b"spin"])
def test_hang_is_a_timeout(request_bytes):
    """A decoder that sleeps or spins for ever is ended in time, and the next image decodes."""
    with IsolatedDecoder(DEFAULT, command=COMMAND, timeout_s=2) as decoder:
        decoder.decode(GOOD)
        start = time.monotonic()
        error = failure(decoder, request_bytes)

        assert error.status is ImageStatus.TIMEOUT
        assert time.monotonic() - start < 15
        assert decoder.decode(GOOD).pixels.any()


def test_default_child_decodes():
    """The child that a run uses, with its settings."""
    with IsolatedDecoder(DecodeConfig(background=7)) as decoder:
        data = cases()["rgba.png"].data
        expected = decode_image(data, DecodeConfig(background=7)).pixels

        assert np.array_equal(decoder.decode(data).pixels, expected)


def test_child_that_cannot_start_is_told():
    """A broken installation is no property of the images."""
    with (
        IsolatedDecoder(
            DEFAULT, command=(sys.executable, "-c", "raise SystemExit('no such library')")
        ) as decoder,
        pytest.raises(SamEngineError, match="does not start: no such library"),
    ):
        decoder.decode(GOOD)


def test_nothing_is_left_behind():
    """After closing there is no child and no descriptor more than before."""
    before = set(os.listdir("/proc/self/fd"))
    with IsolatedDecoder(DEFAULT, command=COMMAND) as decoder:
        decoder.decode(GOOD)
        failure(decoder, b"crash")
        child = decoder.decode(GOOD)

    assert child.pixels.any()
    assert len(os.listdir("/proc/self/fd")) == len(before)
