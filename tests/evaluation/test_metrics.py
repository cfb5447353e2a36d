"""Scores and the image-blind guess."""

import numpy as np
import pytest
import torch

from sam_engine.evaluation.metrics import (
    DISC_FRACTIONS,
    best_discs,
    centre_click,
    correlation,
    disc_ious,
    ellipse_iou,
    mask_iou,
    random_clicks,
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


def test_random_clicks_are_in_the_mask_and_repeatable():
    """All are inside, all over it, and the same for the same seed alone."""
    mask = np.zeros((30, 40), bool)
    mask[5:9, 7:30] = True

    clicks = random_clicks(mask, 400, (3, 7, 0))

    assert all(mask[int(y), int(x)] for x, y in clicks)
    assert len(set(clicks)) > 60  # of 92 pixels, each missed with a chance of 1.3 %
    assert clicks == random_clicks(mask, 400, (3, 7, 0))
    assert clicks != random_clicks(mask, 400, (3, 7, 1))


def test_ellipse_of_a_drawn_ellipse_is_perfect():
    """The ellipse touches its box; of a filled box it covers pi / 4."""
    y, x = np.mgrid[:60, :80] + 0.5
    ellipse = ((x - 40) / 25) ** 2 + ((y - 30) / 15) ** 2 <= 1
    box = np.zeros((60, 80), bool)
    box[15:45, 15:65] = True

    assert ellipse_iou(ellipse, (15, 15, 65, 45)) == 1
    assert ellipse_iou(box, (15, 15, 65, 45)) == pytest.approx(np.pi / 4, abs=0.01)
