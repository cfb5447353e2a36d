"""Measurements and clean-up of masks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp

from sam_engine.ops.masks import (
    batched_mask_to_box,
    calculate_stability_score,
    count_true,
    largest_region_area,
    remove_small_regions,
    uncrop_masks,
)
from sam_engine.utils.amg import mask_to_rle_pytorch
from tests.helpers import queued_device


def test_stability_is_the_ratio_of_two_cuts():
    """Three pixels above +1 and four above -1, both strict."""
    logits = torch.tensor([[[2.0, 1.5, 1.1, 1.0, -1.0, -3.0]]])

    assert calculate_stability_score(logits, 0.0, 1.0).tolist() == [0.75]


def test_stability_of_nothing_is_zero():
    """An empty low cut gives 0, which every positive threshold drops."""
    assert calculate_stability_score(torch.full((1, 3, 3), -9.0), 0.0, 1.0).tolist() == [0.0]


def test_stability_of_wide_masks_does_not_wrap():
    """A row of more than 32,767 foreground pixels is counted in full."""
    logits = torch.full((1, 1, 60_000), 0.5)
    logits[..., :15_000] = 5.0

    assert calculate_stability_score(logits, 0.0, 1.0).tolist() == [0.25]


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=4, max_side=6)))
def test_boxes_span_the_pixels(masks):
    """Inclusive indices; all 0 where nothing is set; int64; leading shape kept."""
    boxes = batched_mask_to_box(torch.from_numpy(masks))

    assert boxes.dtype == torch.int64
    assert boxes.shape == (*masks.shape[:-2], 4)
    for mask, box in zip(masks.reshape(-1, *masks.shape[-2:]), boxes.reshape(-1, 4).tolist(), strict=True):
        y, x = np.nonzero(mask)
        assert box == ([x.min(), y.min(), x.max(), y.max()] if len(x) else [0, 0, 0, 0])


def test_no_masks_have_no_boxes():
    """An empty batch gives an empty int64 tensor."""
    boxes = batched_mask_to_box(torch.zeros(0, 4, 5, dtype=torch.bool))

    assert boxes.shape == (0, 4)
    assert boxes.dtype == torch.int64


def test_uncropping_pads_with_background():
    """The crop lands at its place."""
    masks = uncrop_masks(torch.ones(1, 2, 3, dtype=torch.bool), (1, 2, 4, 4), 5, 6)

    assert masks.shape == (1, 5, 6)
    assert masks.nonzero()[[0, -1], 1:].tolist() == [[2, 1], [3, 3]]


def ascii_mask(*rows):
    return np.array([[char == "#" for char in row] for row in rows])


def test_small_holes_are_filled_and_large_kept():
    """A one-pixel hole goes, one of two pixels stays at threshold 2."""
    mask = ascii_mask("######", "#.#..#", "######")

    cleaned, changed = remove_small_regions(mask, 2, "holes")

    assert changed
    assert np.array_equal(cleaned, ascii_mask("######", "###..#", "######"))


def test_a_thin_strip_of_background_is_a_hole():
    """The background round the mask is filled too if it is small."""
    cleaned, changed = remove_small_regions(ascii_mask("##.", "##."), 3, "holes")

    assert changed
    assert cleaned.all()


def test_small_islands_are_removed():
    """Pixels that touch at corners are one region."""
    cleaned, changed = remove_small_regions(ascii_mask("#....", ".#..#"), 2, "islands")

    assert changed
    assert np.array_equal(cleaned, ascii_mask("#....", ".#..."))


def test_the_largest_island_stays():
    """A mask of small regions only keeps its largest."""
    cleaned, changed = remove_small_regions(ascii_mask("##..#"), 9, "islands")

    assert changed
    assert np.array_equal(cleaned, ascii_mask("##..."))


def test_nothing_small_changes_nothing():
    """The mask itself comes back."""
    mask = ascii_mask("##.", "##.")
    cleaned, changed = remove_small_regions(mask, 2, "islands")

    assert cleaned is mask
    assert not changed


def test_unknown_mode_is_refused():
    """The message names the choices."""
    with pytest.raises(ValueError, match="holes or islands"):
        remove_small_regions(ascii_mask("#"), 1, "spots")


def test_largest_region_counts_connected_pixels():
    """Corners connect; an empty mask has none."""
    assert largest_region_area(ascii_mask("#..", ".#.", "..#", "#..")) == 3
    assert largest_region_area(ascii_mask("...")) == 0


@pytest.mark.parametrize("dim", [0, 1])
def test_flags_are_counted_beyond_what_a_byte_holds(dim):
    """Along either axis, all set, none set and some."""
    flags = torch.rand(700, 600, generator=torch.Generator().manual_seed(0)) > 0.4
    flags[:, 0], flags[0], flags[-1] = True, True, False

    assert torch.equal(count_true(flags, dim), flags.sum(dim, dtype=torch.int32))


def test_counting_flags_copies_none_of_them():
    """On a device it takes a byte for every 255 flags of an axis, beside the sums."""
    with queued_device.watch() as events:
        flags = queued_device.QueuedTensor(torch.ones(1000, 510, dtype=torch.bool))
        before = events.peak_bytes
        count_true(flags)

    assert events.peak_bytes - before <= 2 * (2 * 1000) + 2 * 4 * 2 * 1000


@pytest.mark.parametrize("value", [True, np.uint8(1), np.uint8(255)], ids=["bool", "0/1", "0/255"])
def test_helpers_take_masks_of_any_type(value: bool | np.uint8) -> None:
    """Boxes, run lengths and small regions of masks of 0 and 1, or 0 and 255, are those of bool masks."""
    mask = np.zeros((12, 14), dtype=bool)
    mask[2:9, 3:11] = True
    mask[4, 5] = mask[1, 1] = False
    mask[11, 13] = True
    drawn = mask * value
    tensor, plain = torch.from_numpy(drawn)[None], torch.from_numpy(mask)[None]

    assert batched_mask_to_box(tensor).tolist() == batched_mask_to_box(plain).tolist()
    assert mask_to_rle_pytorch(tensor) == mask_to_rle_pytorch(plain)
    for mode in ("holes", "islands"):
        found, changed = remove_small_regions(drawn, 2, mode)
        assert changed
        assert np.array_equal(found, remove_small_regions(mask, 2, mode)[0])
    assert remove_small_regions(drawn, 1, "islands")[1] is False
