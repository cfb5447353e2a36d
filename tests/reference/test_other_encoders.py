"""Any module with ``forward`` encodes images, as in ``segment_anything``: traced, wrapped, another kind."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sam_engine.build_sam import build_architecture
from sam_engine.predictor import SamPredictor
from tests.helpers.reference_models import SMALL, randomise
from tools.reference import build_reference

pytestmark = pytest.mark.reference

IMAGE = np.random.default_rng(1).integers(256, size=(120, 200, 3), dtype=np.uint8)


class TinyViT(nn.Module):
    """MobileSAM's: its ``forward_features`` is another step, and it has no relation to ours."""

    def __init__(self) -> None:
        super().__init__()
        self.img_size = 256
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(64, 3, 16, 16, generator=generator) / 30)

    def forward_features(self, x: Tensor) -> Tensor:
        """Patches, unlike ours, which gives a pair."""
        return nn.functional.conv2d(x, self.weight, stride=16)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding."""
        return self.forward_features(x).tanh()


class Engine:
    """A TensorRT engine's wrapper: callable, no module."""

    img_size = 256

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder

    def __call__(self, x: Tensor) -> Tensor:
        """Run it."""
        y: Tensor = self.encoder(x)
        return y


def mobile_sam(sam: Any) -> None:
    """Another network."""
    sam.image_encoder = TinyViT()


def traced(sam: Any) -> None:
    """A traced encoder, told its size as people do."""
    encoder = torch.jit.trace(sam.image_encoder, torch.zeros(1, 3, 256, 256))
    encoder.img_size = 256
    sam.image_encoder = encoder


def parallel(sam: Any) -> None:
    """DataParallel hides the size; the reference needs it said."""
    sam.image_encoder = nn.DataParallel(sam.image_encoder)
    if type(sam).__module__.startswith("segment_anything"):
        sam.image_encoder.img_size = 256


def engine(sam: Any) -> None:
    """What is no module replaces one."""
    encoder = Engine(sam.image_encoder)
    del sam.image_encoder
    sam.image_encoder = encoder


def hooked(sam: Any) -> None:
    """Features are changed on their way out."""
    sam.image_encoder.register_forward_hook(lambda module, args, output: output * 2)


def own_forward(sam: Any) -> None:
    """Features are changed by a forward put on the instance."""
    forward = sam.image_encoder.forward
    sam.image_encoder.forward = lambda x: forward(x) * 2


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", [mobile_sam, traced, parallel, engine, hooked, own_forward])
def test_other_encoders_are_called(segment_anything: ModuleType, change: Callable[[Any], None]) -> None:
    """The same features and masks, through predictor and batch interface."""
    reference = build_reference(segment_anything, SMALL)
    randomise(reference, seed=3)
    ours = build_architecture(SMALL)
    ours.load_state_dict(reference.state_dict())
    answers = []
    for model, kind in ((ours, SamPredictor), (reference, segment_anything.SamPredictor)):
        change(model)
        predictor = kind(model)
        predictor.set_image(IMAGE)
        masks, _, logits = predictor.predict(np.array([[40, 30]]), np.array([1]), return_logits=True)
        pixels = torch.as_tensor(predictor.transform.apply_image(IMAGE)).permute(2, 0, 1)
        record = {"image": pixels, "original_size": (120, 200), "boxes": torch.tensor([[5.0, 5, 99, 80]])}
        low = model([record], multimask_output=True)[0]["low_res_logits"].numpy()
        answers.append([predictor.get_image_embedding().numpy(), masks, logits, low])

    for mine, theirs in zip(*answers, strict=True):
        assert np.abs(mine - theirs).max() <= 5e-4 * np.abs(theirs).max()
