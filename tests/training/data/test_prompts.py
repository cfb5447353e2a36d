"""Simulated annotators."""

import numpy as np
import torch

from sam_engine.training.data.prompts import draw_click, error_clicks, noisy_box


def shape() -> np.ndarray:
    """A ring, whose centre of mass lies outside."""
    y, x = np.mgrid[:40, :60]
    distance = (x - 30) ** 2 + (y - 20) ** 2
    return (distance < 15**2) & (distance > 8**2)


def test_clicks_fall_inside_the_mask():
    """Every first click lies within a pixel of the mask, also where the centre of mass does not."""
    mask, rng = shape(), np.random.default_rng(0)

    clicks = np.array([draw_click(mask, rng, (1.0, 1.0)) for _ in range(200)])

    x, y = np.floor(clicks + 0.5).astype(int).T
    assert mask[y, x].all()


def test_clicks_follow_the_scale():
    """A click in a mask enlarged twice and three times is the click scaled about pixel corners."""
    plain = draw_click(shape(), np.random.default_rng(5), (1.0, 1.0))
    scaled = draw_click(shape(), np.random.default_rng(5), (2.0, 3.0))

    np.testing.assert_allclose(scaled + 0.5, (plain + 0.5) * [2, 3], rtol=1e-6)


def test_some_clicks_are_central():
    """Four in ten near the centre of mass, as people click; the others and no more lie anywhere."""
    rng = np.random.default_rng(0)
    clicks = np.array([draw_click(np.ones((100, 100), bool), rng, (1.0, 1.0)) for _ in range(1000)])
    is_central = (np.abs(clicks - 49.5) < 11).all(axis=1)

    assert 0.38 < is_central.mean() < 0.48  # 0.4 + 0.6 * 0.05, deviation 0.016


def test_box_noise_is_bounded():
    """Sides move by at most a tenth of the box and 20 pixels, and stay in the frame."""
    mask, rng = shape(), np.random.default_rng(0)

    boxes = np.array([noisy_box(mask, rng, (10.0, 1.0), 450) for _ in range(500)])

    exact = np.array([160, 6, 450, 35])
    moved = np.abs(boxes - exact).max(axis=0)
    assert (moved <= [20, 2.9, 20, 2.9]).all()
    assert (moved > [18, 2.5, 18, 2.5]).all()
    assert boxes.max() <= 450


def test_error_click_is_where_the_prediction_is_wrong():
    """Missed parts get positive clicks, wrongly taken parts negative ones, in input pixels."""
    targets = torch.zeros(2, 8, 8)
    targets[0, 2, 5] = 1  # missed by an empty prediction
    logits = torch.full((2, 8, 8), -1.0)
    logits[1, 6, 1] = 1.0  # taken though nothing is there

    points, labels = error_clicks(logits, targets, 4, torch.Generator().manual_seed(0))

    assert labels.tolist() == [1.0, 0.0]
    cells = (points + 0.5) / 4
    assert cells.floor().tolist() == [[5, 2], [1, 6]]
    assert (cells % 1).unique().numel() == 4  # anywhere in the cell


def test_error_click_on_a_perfect_mask_is_inside_it():
    """Where nothing is wrong, the mask is clicked again."""
    targets = torch.zeros(1, 8, 8)
    targets[0, 3, 4] = 1

    points, labels = error_clicks(targets * 2 - 1, targets, 4, torch.Generator().manual_seed(0))

    assert labels.tolist() == [1.0]
    assert ((points + 0.5) / 4).floor().tolist() == [[4, 3]]


def test_error_clicks_draw_three_numbers_for_each_prompt():
    """However many pixels there are: they are drawn on the CPU and sent to the device."""
    mine, other = (torch.Generator().manual_seed(0) for _ in range(2))
    error_clicks(torch.full((5, 8, 8), -1.0), torch.ones(5, 8, 8), 4, mine)
    torch.rand(5, 3, generator=other)

    assert torch.equal(mine.get_state(), other.get_state())


def test_error_clicks_are_uniform_over_what_is_wrong():
    """Each of seven wrong cells, in rows of one, two and four, is clicked about as often as any other."""
    targets = torch.zeros(1, 8, 8)
    targets[0, 0, 7] = targets[0, 3, 0] = targets[0, 3, 5] = 1
    targets[0, 7, 2:6] = 1
    targets = targets.expand(7000, 8, 8)

    points, _ = error_clicks(targets - 1, targets, 4, torch.Generator().manual_seed(0))

    x, y = ((points + 0.5) / 4).long().unbind(dim=1)
    places, counts = torch.unique(y * 8 + x, return_counts=True)
    assert places.tolist() == [7, 24, 29, 58, 59, 60, 61]
    assert (counts - 1000).abs().max() < 150  # five deviations
