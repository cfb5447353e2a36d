"""The picture of an evaluation."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_engine.config import AmgConfig
from sam_engine.evaluation.config import EvaluateConfig
from sam_engine.evaluation.run import evaluate_truths
from sam_engine.evaluation.truth import open_truth
from tests.helpers.fakes import make_reduced_tiny


@pytest.mark.parametrize(("parts", "drawn"), [(["prompts"], [True, False]), (["grid"], [False, True])])
def test_panels_of_what_was_measured(truth_tar: Path, tmp_path: Path, parts: list[str], drawn: list[bool]):
    """Prompts fill the upper half, the grid the lower one; the rest stays white."""
    pytest.importorskip("matplotlib")
    from sam_engine.evaluation.plots import draw_scores

    config = EvaluateConfig(parts=parts, amg=AmgConfig(points_per_side=2), limit=2)
    evaluation = evaluate_truths(make_reduced_tiny(), [open_truth(truth_tar)], config)
    draw_scores(tmp_path / "a.png", "drawn", evaluation.scores["drawn"])

    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    half = len(pixels) // 2
    dark = [(part < 200).mean() > 0.01 for part in (pixels[60:half], pixels[half:])]
    assert dark == drawn
