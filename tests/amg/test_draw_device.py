"""Masks drawn on a device have the run lengths of those drawn in full."""

import logging

import numpy as np
import pytest
import torch

from sam_engine.amg import measure as plain
from sam_engine.amg.draw_device import QueuedRuns
from sam_engine.amg.packed_logits import KeptLogits
from tests.helpers import queued_device
from tests.helpers.drawn_logits import SIZES, drawings, frame_of


def assert_equal(runs: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(runs) == len(expected)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(runs, expected, strict=True))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("around", [(0, 0), (5, 4)])
def test_runs_on_a_device(size: tuple[int, int], around: tuple[int, int]) -> None:
    """Every kind of mask, empty and full ones too, in a whole image and in a crop of one."""
    logits, frame = drawings(32, seed=sum(size)), frame_of(size, 128)
    boxes = plain.measure_masks(logits, frame, 0.0, 1.0).boxes_xyxy
    origin, image = (around[0] // 2, around[1] // 2), (size[0] + around[0], size[1] + around[1])

    runs = QueuedRuns(KeptLogits(list(logits)), frame, 0.0, boxes).runs_at_once(origin, image)

    assert_equal(runs, plain.masks_to_runs(logits, frame, 0.0, boxes, origin, image))


def test_outlines_too_long_for_their_list_are_drawn_again(caplog: pytest.LogCaptureFixture) -> None:
    """The run lengths are the same; the log says what happened."""
    logits, frame = drawings(32, seed=1), frame_of((97, 131), 128)
    boxes = plain.measure_masks(logits, frame, 0.0, 1.0).boxes_xyxy
    queued = QueuedRuns(KeptLogits(list(logits)), frame, 0.0, boxes, changes_per_column=0)
    with caplog.at_level(logging.INFO):
        runs = queued.runs_at_once((0, 0), (97, 131))

    assert "drawn again" in caplog.text
    assert_equal(runs, plain.masks_to_runs(logits, frame, 0.0, boxes, (0, 0), (97, 131)))


def test_masks_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three at a time, as memory may demand."""
    logits, frame = drawings(32, seed=2), frame_of((97, 131), 128)
    boxes = plain.measure_masks(logits, frame, 0.0, 1.0).boxes_xyxy
    expected = plain.masks_to_runs(logits, frame, 0.0, boxes, (0, 0), (97, 131))
    monkeypatch.setattr(plain, "MAX_PIXELS_AT_ONCE", 1)

    assert_equal(
        QueuedRuns(KeptLogits(list(logits)), frame, 0.0, boxes).runs_at_once((0, 0), (97, 131)), expected
    )


def test_drawing_waits_for_nothing() -> None:
    """Until its run lengths are asked for."""
    logits, frame = drawings(32, seed=2), frame_of((97, 131), 128)
    boxes = torch.tensor([[0, 0, 130, 96]]).expand(len(logits), 4)
    with queued_device.watch() as events:
        ours = KeptLogits(list(queued_device.QueuedTensor(logits)))
        queued = QueuedRuns(ours, frame, 0.0, boxes)
        before = list(events.reads), list(events.waits)
        queued.runs_at_once((0, 0), (97, 131))

    assert before == ([], [])
    assert len(events.reads) == 1
