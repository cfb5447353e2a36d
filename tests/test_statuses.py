"""Every status of the schema, reached by a run on a file or a model that deserves it."""

import os
import sys

import pytest

import sam_engine.images.isolated as isolation
from pipelines.auto_annotate import run
from sam_engine.dataset.reader import open_dataset
from sam_engine.inputs.source import FileInput
from sam_engine.structures import ImageStatus
from tests.corpus.image_corpus import cases
from tests.helpers import fakes

FILES = {
    ImageStatus.CORRUPT: cases()["checksum.png"].data,
    ImageStatus.TRUNCATED: cases()["half.jpg"].data,
    ImageStatus.TOO_LARGE: cases()["16383x16383.webp"].data,
    ImageStatus.UNSUPPORTED: cases()["svg.png"].data,
}
COLOURS = {
    ImageStatus.OK: (90, 120, 60),
    ImageStatus.OOM: fakes.GREEDY,
    ImageStatus.MODEL_NONFINITE: fakes.NON_FINITE,
    ImageStatus.WORKER_CRASH: fakes.RAISING,
}
CHILD = """
import os, signal, time
from sam_engine.images.decode import decode_image
from sam_engine.images.isolated import serve
def decode(data, config, buffer):
    if data == b"crash": os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"hang": time.sleep(1000)
    return decode_image(data, config, buffer)
serve(decode)
"""


@pytest.fixture(scope="module")
def statuses(tmp_path_factory):
    """One run over a folder with an image for each status; the status of each by its name."""
    folder = tmp_path_factory.mktemp("in")
    output = tmp_path_factory.mktemp("work") / "out"
    for status, data in FILES.items():
        (folder / f"{status}.jpg").write_bytes(data)
    for status, colour in COLOURS.items():
        fakes.write_image(folder / f"{status}.png", colour)
    (folder / "decoder_crash.jpg").write_bytes(b"crash")
    (folder / "timeout.jpg").write_bytes(b"hang")
    os.mkfifo(folder / "unreadable.jpg")
    for name in ("vanished.png", "changed.png"):
        fakes.write_image(folder / name)
    read = FileInput.read

    def read_late(self, entry, config):
        (folder / "vanished.png").unlink(missing_ok=True)
        fakes.write_image(folder / "changed.png", size=(7, 5))
        return read(self, entry, config)

    decoder = isolation.IsolatedDecoder.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileInput, "read", read_late)
        patch.setattr(
            isolation.IsolatedDecoder,
            "__init__",
            lambda self, config: decoder(self, config, timeout_s=5, command=(sys.executable, "-c", CHILD)),
        )
        settings = {"decode__isolate": True, "max_failed_fraction": 1.0}
        config = fakes.run_settings(input=str(folder), output=str(output), **settings)
        run(config, fakes.make_troubled_segmenter)
    return {
        record.path.decode().partition(".")[0]: record.status for record in open_dataset(output).records()
    }


@pytest.mark.parametrize("status", [status for status in ImageStatus if status is not ImageStatus.OK_EMPTY])
def test_status_is_reached(statuses, status):
    """The image made for it gets it, in one run with all others."""
    assert statuses[str(status)] is status


def test_image_without_masks_is_empty(tmp_path):
    """No mask that passes the filters is no failure."""
    fakes.write_image(tmp_path / "in" / "plain.png")
    config = fakes.run_settings(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), amg__pred_iou_thresh=2.0
    )
    code = run(config, fakes.make_disc_segmenter)
    [record] = open_dataset(tmp_path / "out").records()

    assert (code, record.status) == (0, ImageStatus.OK_EMPTY)
