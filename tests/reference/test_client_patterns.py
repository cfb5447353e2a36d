"""What public clients of ``segment_anything`` do, one of a kind, gives on ours what it gives on the original.

The patterns are in client_patterns.py. What clients put into networks is in test_encoder_surgery.py,
test_changed_decoder.py and test_other_encoders.py; subclasses of the generator are in test_subclasses.py.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

import sam_engine
from sam_engine.build_sam import build_architecture
from tests.helpers.reference_models import SMALL, randomise
from tests.reference.client_patterns import PATTERNS
from tools.reference import build_reference

pytestmark = pytest.mark.reference

RELATIVE = 5e-4
"""Of the largest value; as in test_predictor_parity.py."""


@pytest.fixture(scope="module")
def both(segment_anything: ModuleType) -> list[tuple[Any, Any]]:
    """(package, model) of ours and of the reference."""
    reference = build_reference(segment_anything, SMALL)
    randomise(reference, seed=5)
    ours = build_architecture(SMALL)
    ours.load_state_dict(reference.state_dict())
    return [(sam_engine, ours), (segment_anything, reference)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
def test_a_client_is_given_the_same(
    both: list[tuple[Any, Any]], pattern: Callable[[Any, Any], list[Any]]
) -> None:
    """Numbers up to rounding, masks but for single pixels, the same shapes and types."""
    ours, theirs = (pattern(*pair) for pair in both)

    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        x, y = torch.as_tensor(mine).detach(), torch.as_tensor(other).detach()
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        if y.dtype == torch.bool:
            assert (x != y).float().mean() < 1e-3
        else:
            assert (x - y).abs().max() <= RELATIVE * max(float(y.abs().max()), 0.1)
