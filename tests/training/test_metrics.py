"""Scores and the image-blind guess."""

import numpy as np
import pytest
import torch

from sam_engine.training.metrics import (
    DISC_FRACTIONS,
    best_discs,
    centre_click,
    correlation,
    disc_ious,
    mask_iou,
    tight_box,
)


def test_iou_counts_pixels():
    """Overlap over union; 0 where both are empty."""
    a = torch.tensor([[[1, 1, 0]], [[0, 0, 0]]], dtype=torch.bool)
    b = torch.tensor([[[0, 1, 1]], [[0, 0, 0]]], dtype=torch.bool)

    torch.testing.assert_close(mask_iou(a, b), torch.tensor([1 / 3, 0.0]))


def test_disc_ious_equal_drawn_discs():
    """Each radius scores as the disc drawn pixel by pixel and cut at the image's edge."""
    mask = np.random.default_rng(0).random((50, 70)) < 0.3
    y, x = np.mgrid[:50, :70]
    distance = np.sqrt((x - 5.0) ** 2 + (y - 30.0) ** 2)

    expected = []
    for fraction in DISC_FRACTIONS:
        disc = distance <= fraction * 70
        expected.append((disc & mask).sum() / (disc | mask).sum())

    np.testing.assert_allclose(disc_ious(mask, (5.0, 30.0)), expected)


def test_best_discs_pick_one_radius_for_all_and_three():
    """One radius serves all masks; of three, each mask takes its best."""
    ious = np.array([[0.9, 0.0, 0.1, 0.0], [0.0, 0.8, 0.1, 0.0], [0.0, 0.0, 0.1, 0.7]])

    single, oracle = best_discs(ious)

    assert single == pytest.approx(0.3)
    assert oracle == pytest.approx(0.8)


def test_centre_click_is_the_centre_of_mass_when_inside():
    """A rectangle is clicked in its middle."""
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:21] = True

    assert centre_click(mask) == (15, 6)


def test_centre_click_of_a_ring_is_inside_it():
    """Where the centre of mass is outside, the pixel farthest from the edge is clicked."""
    mask = np.zeros((21, 31), bool)
    mask[2:19, 2:29] = True
    mask[4:17, 4:20] = False  # a frame, thick on the right

    x, y = centre_click(mask)

    assert mask[int(y), int(x)]
    assert 22 <= x <= 25


def test_image_border_is_an_edge():
    """A mask along the border is clicked in its middle, not at the border."""
    mask = np.zeros((40, 40), bool)
    mask[:9] = True
    mask[:, :9] = True
    mask[-9:] = True

    x, y = centre_click(mask)

    assert x >= 3
    assert 3 <= y <= 36


def test_box_ends_are_exclusive():
    """A single pixel has a box of side 1."""
    mask = np.zeros((5, 5), bool)
    mask[2, 3] = True

    assert tight_box(mask) == (3, 2, 4, 3)


def test_correlation_of_a_constant_is_zero():
    """A model that says the same of all masks knows nothing of them."""
    assert correlation(np.ones(4), np.arange(4.0)) == 0
