"""Reliability of scores."""

import numpy as np
import pytest

from sam_engine.evaluation.calibration import calibrate


def test_bins_and_error_by_hand():
    """Two bins: two masks said to be 0.1 that are 0.3, one said to be 0.9 that is 0.6."""
    result = calibrate(np.array([0.0, 0.2, 0.9]), np.array([0.3, 0.3, 0.6]), 2)

    low, high = result.bins
    assert (low.low, low.high, low.count, high.count) == (0.0, 0.5, 2, 1)
    assert (low.mean_score, low.mean_iou, high.mean_score) == pytest.approx((0.1, 0.3, 0.9))
    assert result.ece == pytest.approx((2 * 0.2 + 1 * 0.3) / 3)
    assert result.bias == pytest.approx(1.1 / 3 - 1.2 / 3)


def test_scores_outside_are_counted_at_the_ends():
    """Predicted IoU is unbounded; no mask is lost."""
    result = calibrate(np.array([-0.2, 1.0, 1.3]), np.array([0.0, 1.0, 1.0]), 10)

    assert [part.count for part in result.bins] == [1, *[0] * 8, 2]


def test_a_perfect_score_has_no_error():
    """A score that is the IoU has error 0 and correlation 1."""
    ious = np.linspace(0, 1, 50)

    result = calibrate(ious, ious)

    assert result.ece == pytest.approx(0)
    assert result.correlation == pytest.approx(1)
