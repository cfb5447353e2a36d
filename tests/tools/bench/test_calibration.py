"""Random networks that find masks."""

import numpy as np
import pytest
import torch
from PIL import Image

from sam_engine.build_sam import build_architecture
from sam_engine.config import AmgConfig
from tests.helpers.reference_models import SMALL
from tools.bench.calibration import calibrate, measure_survival


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("size", [(170, 250), (256, 256)])
def test_the_wanted_shares_of_candidates_pass(seed: int, size: tuple[int, int]) -> None:
    """68 % the first filter and 42 % both, where none did before; within what 192 candidates resolve."""
    torch.manual_seed(seed)
    sam = build_architecture(SMALL)
    noise = np.random.default_rng(3).integers(256, size=(12, 12, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BILINEAR))
    embedding = sam.encode([image])[0]
    before = measure_survival(sam, embedding, AmgConfig())
    calibrate(sam, embedding, AmgConfig())
    after = measure_survival(sam, embedding, AmgConfig())

    assert before.both == 0
    assert after.iou == pytest.approx(0.68, abs=0.03)
    assert after.both == pytest.approx(0.42, abs=0.03)
