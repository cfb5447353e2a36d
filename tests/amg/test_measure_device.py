"""What is measured on a device equals what is at full resolution; what was not measured is told."""

import pytest
import torch
from torch import Tensor

from sam_engine.amg import measure as plain
from sam_engine.amg import measure_device
from sam_engine.amg.measure import LogitFrame, MaskMeasures
from sam_engine.amg.measure_device import is_whole, measure_masks, measures_of_table
from tests.helpers import queued_device
from tests.helpers.drawn_logits import SIZES, drawings, frame_of

NO_TIE = 0.0123
"""A threshold that no drawing's pixels hit: at one, rounding decides."""


def measured(logits: Tensor, frame: LogitFrame, offset: float = 1.0) -> tuple[MaskMeasures, Tensor]:
    wanted = torch.ones(len(logits), dtype=torch.bool)
    table = measure_masks(logits, frame, NO_TIE, offset, wanted=wanted)
    return measures_of_table(table), is_whole(table)


def assert_same(fast: MaskMeasures, slow: MaskMeasures) -> None:
    for name in ("stability_score", "area", "boxes_xyxy"):
        assert getattr(fast, name).dtype == getattr(slow, name).dtype
        assert torch.equal(getattr(fast, name), getattr(slow, name)), name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("image_size", "offset"), [(128, 1.0), (256, 0.0)])
def test_device_measures(size: tuple[int, int], image_size: int, offset: float) -> None:
    """Stability, area and box of every kind of mask, in images of every shape."""
    logits, frame = drawings(image_size // 4, seed=sum(size)), frame_of(size, image_size)
    wanted = torch.ones(len(logits), dtype=torch.bool)

    table = measure_masks(logits, frame, NO_TIE, offset, wanted=wanted, open_share=1.0)

    assert is_whole(table).all()
    assert_same(measures_of_table(table), plain.measure_masks(logits, frame, NO_TIE, offset))


def test_a_mask_at_a_cut_is_not_above_it() -> None:
    """Everywhere at one of the three cuts is nowhere above that one, and everywhere above those below it."""
    logits = torch.tensor([-1.0, 0.0, 1.0])[:, None, None].expand(3, 32, 32)
    wanted = torch.ones(3, dtype=torch.bool)
    table = measure_masks(logits, frame_of((50, 70), 128), 0.0, 1.0, wanted=wanted)

    assert table[:, :3].tolist() == [[0, 0, 0], [50 * 70, 0, 0], [50 * 70, 50 * 70, 0]]
    assert table[:, 3:7].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 69, 49]]


def test_blocks_that_do_not_fit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks up to the one at which the list ends are right; the others are known not to be."""
    logits, frame = drawings(32, seed=7)[:6], frame_of((97, 131), 128)
    everything = plain.measure_masks(logits, frame, NO_TIE, 1.0)
    monkeypatch.setattr(measure_device, "MIN_OPEN", 0)
    wanted = torch.ones(6, dtype=torch.bool)
    table = measure_masks(logits, frame, NO_TIE, 1.0, wanted=wanted, open_share=0.08)
    whole = is_whole(table)

    assert 0 < int(whole.sum()) < 6
    assert torch.equal(measures_of_table(table).area[whole], everything.area[whole])
    assert torch.equal(measures_of_table(table).boxes_xyxy[whole], everything.boxes_xyxy[whole])


def test_masks_that_are_not_wanted_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """One mask is whole where six are not."""
    logits, frame = drawings(32, seed=7)[:6], frame_of((97, 131), 128)
    monkeypatch.setattr(measure_device, "MIN_OPEN", 0)
    wanted = torch.arange(6) == 5
    table = measure_masks(logits, frame, NO_TIE, 1.0, wanted=wanted, open_share=0.08)

    assert is_whole(table).all()
    assert table[5, 1] == plain.measure_masks(logits, frame, NO_TIE, 1.0).area[5]


def test_how_many_are_measured_together_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """One mask at a time, or all."""
    logits, frame = drawings(32, seed=3), frame_of((150, 201), 128)
    together, _ = measured(logits, frame)
    monkeypatch.setattr(measure_device, "PIXELS_AT_ONCE", 1)

    assert_same(measured(logits, frame)[0], together)


def test_no_masks_on_a_device() -> None:
    """An empty batch has empty measures of the same types."""
    logits, frame = torch.zeros(0, 32, 32), frame_of((50, 60), 128)

    assert_same(measured(logits, frame)[0], plain.measure_masks(logits, frame, NO_TIE, 1.0))


def test_measuring_waits_for_nothing() -> None:
    """No value is read meanwhile, nothing is sent in a way that waits, no sum is left to one block."""
    logits, frame = drawings(32, seed=3), frame_of((150, 201), 128)
    with queued_device.watch() as events:
        ours = queued_device.QueuedTensor(logits)
        wanted = torch.ones(len(logits), dtype=torch.bool, device=ours.device)
        table = measure_masks(ours, frame, NO_TIE, 1.0, wanted=wanted)

    assert (events.reads, events.waits) == ([], [])
    assert all(len(shape) == 1 for shape in events.scans)  # on all of a GPU, not on a block for each row
    assert isinstance(table, queued_device.QueuedTensor)
