"""The frames of a video are listed and read like files."""

import os

import cv2
import numpy as np

from sam_engine.config import DecodeConfig
from sam_engine.images.decode import decode_image
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import Account, ListingRules
from tests.helpers.inputs import entries, refusal

DEFAULT = DecodeConfig()


def test_video_frames_are_images(tmp_path):
    """Every frame is a PNG, the same one in any order of reading."""
    path = tmp_path / "x.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for level in range(0, 200, 10):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    source = open_input(str(path))
    frames = entries(source)
    os.utime(path, ns=(1, 1))  # a new time alone is no change
    order = [*range(19, -1, -1), *range(20)]
    means = [decode_image(source.read(frames[index], DEFAULT), DEFAULT).pixels.mean() for index in order]

    assert frames[3].path == b"x.avi#000003"
    assert len(frames) == 20
    assert np.allclose(means, [10 * index for index in order], atol=3)  # MJPEG is lossy


def test_video_with_an_odd_name_is_refused(tmp_path):
    """OpenCV is never given a path that it could crash on."""
    path = tmp_path / os.fsdecode(b"bad\xff.mp4")
    path.touch()

    assert "rename the video" in refusal(path)


def test_a_video_cut_in_half_is_refused(tmp_path):
    """It states more frames than decode; those that do can be taken."""
    path = tmp_path / "x.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(20):
        writer.write(noise.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    os.truncate(path, path.stat().st_size // 2)
    account = Account()
    files = list(open_input(str(path), ListingRules(accept_incomplete=True)).iter_files(account))

    assert 0 < len(files) < 15
    assert account.incomplete == [
        f"input {str(path)!r} is not whole: {len(files)} frames decode of the 20 that it states"
    ]
    assert "input_incomplete=accept" in refusal(path)
