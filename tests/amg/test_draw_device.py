"""Masks drawn on a device have the run lengths of those drawn in full."""

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from sam_engine.amg import measure as plain
from sam_engine.amg.draw_device import QueuedRuns
from sam_engine.amg.measure import LogitFrame
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


def fence_and_squares(num_squares: int) -> Tensor:
    """Return (N, 32, 32) logits: stripes of one logit, then small squares in several places."""
    logits = torch.full((1 + num_squares, 32, 32), -3.0)
    logits[0, ::2] = 3.0
    for number in range(num_squares):
        y, x = 2 + number % 5 * 4, 2 + number // 5 * 4
        logits[1 + number, y : y + 2, x : x + 2] = 3.0
    return logits


def num_changes(logits: Tensor, frame: LogitFrame) -> int:
    """Count where the columns of masks, as drawn in full, differ from the pixel above, or from nothing."""
    [upscaled] = plain.upscaled_chunks(logits, frame)
    columns = np.pad((upscaled > 0).numpy(), ((0, 0), (1, 1), (0, 0))).astype(int)
    return int(np.abs(np.diff(columns, axis=1)).sum())


@pytest.mark.parametrize(("pixels_at_once", "num_again"), [(2**25, 16), (1, 3)])
def test_a_fence_among_small_masks_costs_its_own_changes(
    pixels_at_once: int, num_again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second list is as long as the chunk that did not fit needs, be it of all masks or of three."""
    logits, frame = fence_and_squares(15), frame_of((97, 131), 128)
    boxes = plain.measure_masks(logits, frame, 0.0, 1.0).boxes_xyxy
    expected = plain.masks_to_runs(logits, frame, 0.0, boxes, (0, 0), (97, 131))
    needed = num_changes(logits[:num_again], frame)
    monkeypatch.setattr(plain, "MAX_PIXELS_AT_ONCE", pixels_at_once)
    with queued_device.watch() as events:
        kept = KeptLogits(list(queued_device.QueuedTensor(logits)))
        runs = QueuedRuns(kept, frame, 0.0, boxes).runs_at_once((0, 0), (97, 131))

    assert_equal(runs, expected)
    assert [shape[0] for shape in events.reads[1:]] == [1 + needed]


def test_drawing_copies_no_flags_to_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its peak a device holds the upscaled logits, those of the step before, and flags of a byte."""
    logits, frame = fence_and_squares(15), frame_of((128, 128), 128)
    boxes = plain.measure_masks(logits, frame, 0.0, 1.0).boxes_xyxy
    with queued_device.watch() as events:
        kept = KeptLogits(list(queued_device.QueuedTensor(logits)))
        before = events.peak_bytes
        QueuedRuns(kept, frame, 0.0, boxes)

    assert events.peak_bytes - before < 13 * 18 * 128 * 128


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
