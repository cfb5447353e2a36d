"""Models of ``segment_anything`` 1.0 that were pickled whole come back as ours."""

import pickle
from io import BytesIO
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sam_engine.modeling.sam import Sam
from sam_engine.predictor import SamPredictor
from tests.helpers.reference_models import SMALL, randomise
from tools.reference import build_reference

pytestmark = pytest.mark.reference


class AsInstalled(pickle.Unpickler):
    """Finds what `install_as_segment_anything` would put under the original's names."""

    def find_class(self, module: str, name: str) -> Any:
        """Look among ours."""
        return super().find_class(module.replace("segment_anything", "sam_engine"), name)


def test_a_model_that_was_pickled_whole(segment_anything: ModuleType) -> None:
    """Attributes that the original has not are there, and the masks are the original's."""
    reference = build_reference(segment_anything, SMALL)
    randomise(reference, seed=3)
    ours = AsInstalled(BytesIO(pickle.dumps(reference))).load()
    image = np.random.default_rng(1).integers(256, size=(120, 200, 3), dtype=np.uint8)
    answers = []
    for predictor in (SamPredictor(ours), segment_anything.SamPredictor(reference)):
        predictor.set_image(image)
        answers.append(predictor.predict(box=np.array([20, 10, 160, 100]), return_logits=True)[0])

    assert type(ours) is Sam
    assert ours._is_fast()
    assert np.abs(answers[0] - answers[1]).max() <= 5e-4 * np.abs(answers[1]).max()
