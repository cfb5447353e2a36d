"""A decoder that crashes, hangs, lies or eats memory costs one image, never the process that asked."""

import dataclasses
import functools
import json
import os
import sys
import time

import numpy as np
import pytest

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError, SamEngineError
from sam_engine.images import shared_block
from sam_engine.images.decode import decode_image
from sam_engine.images.isolated import IsolatedDecoder
from sam_engine.images.shared_block import CAN_SEAL
from sam_engine.structures import ImageStatus
from tests.corpus.image_corpus import cases

DEFAULT = DecodeConfig()
SMALL = DecodeConfig(max_pixels=10_000_000)
GOOD = cases()["ok.jpg"].data
# A child whose decoder does what the file says: the only way to misbehave on purpose, out of reach of config.
CHILD = """
import json, os, signal, sys, time
import numpy as np
from sam_engine.images.decode import decode_image
from sam_engine.images.isolated import serve
def decode(data, config, buffer):
    if data == b"crash": os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"exit": os._exit(7)
    if data == b"hang": time.sleep(1000)
    if data == b"spin":
        while True: pass
    if data == b"lie": os.write(ANSWERS, b"nonsense, and no length"); time.sleep(1000)
    if data.startswith(b"answer"): say(data[6:])
    if data == b"cut": os.ftruncate(json.loads(sys.argv[-1])["shared"], 0)
    if data == b"print":
        for _ in range(100): os.write(2, bytes(2**20))
    if data == b"files": return [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    if data == b"memory":
        try: np.ones(8 * 2**30, np.uint8)
        except MemoryError: print("printed by a library"); return decode_image(b"refused", config)
    if data == b"environment": return decode_image(("SECRET" in os.environ) * b"<" or b"%PDF", config)
    return decode_image(data, config, buffer)
ANSWERS = os.dup(1)
def say(body): os.write(ANSWERS, len(body).to_bytes(4, "little") + body); os._exit(0)
serve(decode)
"""
COMMAND = (sys.executable, "-c", CHILD)


@pytest.fixture(scope="module")
def decoder():
    with IsolatedDecoder(SMALL, command=COMMAND, timeout_s=20) as decoder:
        yield decoder


def failure(decoder: IsolatedDecoder, data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decoder.decode(data)
    return caught.value


@pytest.mark.parametrize("settings", [{}, {"strict": False}, {"scale": "p1-p99", "bands": [3, 1, 2]}])
def test_every_file_has_the_same_result(settings):
    """Isolated or not, each file of the corpus has the same pixels or the same status and message."""
    config = dataclasses.replace(SMALL, **settings)

    def result(decode, data: bytes) -> tuple:
        try:
            image = decode(data)
        except ImageError as error:
            return error.status, str(error)
        return (
            image.pixels.shape,
            image.pixels.tobytes(),
            image.exif_orientation,
            image.note,
            image.pixels.flags.writeable,
        )

    with IsolatedDecoder(config) as decoder:
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


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "no such status", "note": None, "height": 0, "width": 0, "orientation": 1},
        {"note": None, "height": 10**9, "width": 1, "orientation": 1},
        {"note": None, "height": -5, "width": -5, "orientation": 1},
        {"height": 5},
        "[" * 20_000,
    ],
)
def test_impossible_answers_are_crashes(decoder, answer):
    """What a child that was taken over may say is believed only where it makes sense."""
    body = answer if isinstance(answer, str) else json.dumps(answer)

    assert failure(decoder, b"answer" + body.encode()).status is ImageStatus.DECODER_CRASH


def test_text_of_a_child_is_one_line():
    """A child cannot start a line of a log, or a long one."""
    answer = {
        "status": "corrupt",
        "note": "a\nerror: b" + "x" * 1000,
        "height": 0,
        "width": 0,
        "orientation": 1,
    }
    with IsolatedDecoder(SMALL, command=COMMAND) as decoder:
        text = str(failure(decoder, b"answer" + json.dumps(answer).encode()))

    assert text.startswith(r"a\nerror: b")
    assert len(text) == 500


@pytest.mark.skipif(not CAN_SEAL, reason="this system has no seals for memory")
def test_shared_memory_cannot_be_cut_off(decoder):
    """A child that shrinks the shared memory fails; the parent, which has it mapped, would die of it."""
    assert failure(decoder, b"cut").status is ImageStatus.DECODER_CRASH
    assert decoder.decode(GOOD).pixels.any()


def test_child_writes_no_files(decoder):
    """Whatever a decoder prints or writes, no disk fills up."""
    assert failure(decoder, b"print").status is ImageStatus.DECODER_CRASH
    assert decoder.decode(GOOD).pixels.any()


def test_shared_memory_without_seals(monkeypatch):
    """Where memory cannot be sealed it is read with system calls, and the pixels are the same."""
    monkeypatch.setattr(shared_block, "CAN_SEAL", False)
    with IsolatedDecoder(SMALL) as decoder:
        assert np.array_equal(decoder.decode(GOOD).pixels, decode_image(GOOD, SMALL).pixels)


@pytest.mark.skipif(not CAN_SEAL, reason="only sealed memory is mapped")
def test_memory_of_large_images_is_given_back(monkeypatch):
    """After an image above `KEPT_BYTES` the shared memory takes nothing."""
    monkeypatch.setattr(shared_block, "KEPT_BYTES", 1000)
    with IsolatedDecoder(SMALL) as decoder:
        first = decoder.decode(GOOD).pixels

        assert os.fstat(decoder._shared.descriptor).st_blocks == 0
        assert np.array_equal(decoder.decode(GOOD).pixels, first)


def test_working_directory_is_no_source_of_code(tmp_path, monkeypatch):
    """A module in the working directory, perhaps among the images, is not imported by the child."""
    (tmp_path / "resource.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    with IsolatedDecoder(SMALL) as decoder:
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
