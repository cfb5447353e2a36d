"""What is measured on which images."""

from dataclasses import replace
from pathlib import Path

import pytest

from sam_engine.config import AmgConfig
from sam_engine.evaluation.config import EvaluateConfig
from sam_engine.evaluation.run import evaluate_truths
from sam_engine.evaluation.truth import open_truth
from tests.helpers.drawn_data import write_tar
from tests.helpers.fakes import make_reduced_tiny

CONFIG = EvaluateConfig(amg=AmgConfig(points_per_side=2))


@pytest.mark.parametrize(
    ("changes", "num_prompted", "num_grids"),
    [
        ({"limit": 2, "grid_limit": 1}, 2, 1),
        ({"limit": None, "grid_limit": 2}, 3, 2),
        ({"limit": 1, "grid_limit": None}, 1, 1),
        ({"limit": 3, "grid_limit": 1, "parts": ["grid"]}, None, 1),
    ],
)
def test_limits_say_how_many_images_are_scored(truth_tar: Path, changes, num_prompted, num_grids):
    """Prompts and the grid have their own; an image that neither needs is not read."""
    seen = []
    config = replace(CONFIG, **changes)

    result = evaluate_truths(
        make_reduced_tiny(), [open_truth(truth_tar)], config, lambda name, done: seen.append((name, done))
    )

    scores = result.scores["drawn"]
    assert (scores.prompts and scores.prompts.images) == num_prompted
    assert scores.grid is not None
    assert scores.grid.images == num_grids
    assert seen == [("drawn", number) for number in range(1, max(num_prompted or 0, num_grids) + 1)]


def test_the_grids_of_all_truths_are_pooled(truth_tar: Path, tmp_path: Path):
    """Thresholds are chosen over all of them; prompts are scored apart."""
    other = write_tar(tmp_path / "other.tar", [5])

    result = evaluate_truths(make_reduced_tiny(), [open_truth(truth_tar), open_truth(other)], CONFIG)

    assert result.pooled is not None
    assert (result.pooled.images, result.pooled.truth_masks) == (4, 8)
    assert [s.prompts and s.prompts.images for s in result.scores.values()] == [3, 1]
