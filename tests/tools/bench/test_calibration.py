"""Random networks that find masks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam_engine.build_sam import build_architecture
from sam_engine.config import AmgConfig
from sam_engine.errors import ConfigError
from tests.helpers.reference_models import SMALL
from tools.bench.calibration import calibrate, measure_survival, save_calibrated


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


def test_weights_are_calibrated_on_the_device_that_runs_them(tmp_path: Path) -> None:
    """And not on a CPU in secret, where vit_h would take minutes."""
    image = np.zeros((60, 90, 3), np.uint8)

    with pytest.raises(ConfigError, match="'cuda:99'"):
        save_calibrated("vit_h", image, AmgConfig(), tmp_path / "weights.pt", "cuda:99")
