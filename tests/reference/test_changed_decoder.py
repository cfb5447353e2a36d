"""What people put into decoder and prompt encoder has the effect that it has on ``segment_anything`` 1.0.

Each change is made to both models, which have the same random weights, and prompts are answered by both
predictors. A change that the fast decoder bypasses would leave the masks as they were.
"""

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sam_engine.build_sam import build_architecture
from sam_engine.modeling.sam import Sam
from sam_engine.predictor import SamPredictor
from tests.helpers.reference_models import SMALL, randomise
from tools.reference import build_reference

pytestmark = pytest.mark.reference

RELATIVE = 5e-4
"""Of the largest logit; as in test_predictor_parity.py."""
IMAGE = np.random.default_rng(1).integers(256, size=(120, 200, 3), dtype=np.uint8)
PROMPT = {"point_coords": np.array([[40, 30], [150.5, 99]]), "point_labels": np.array([1, 0])}


class Lora(nn.Module):
    """PEFT: a projection, and a low-rank change beside it."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        generator = torch.Generator().manual_seed(4)
        self.down = nn.Parameter(torch.randn(4, base_layer.in_features, generator=generator) / 4)
        self.up = nn.Parameter(torch.randn(base_layer.out_features, 4, generator=generator) / 4)

    def forward(self, x: Tensor) -> Tensor:
        """Add the change."""
        y: Tensor = self.base_layer(x)
        return y + x @ self.down.T @ self.up.T


def lora(sam: Any) -> None:
    """Queries and values of every attention."""
    for module in list(sam.mask_decoder.modules()):
        if hasattr(module, "q_proj"):
            module.q_proj, module.v_proj = Lora(module.q_proj), Lora(module.v_proj)


def own_forward(sam: Any) -> None:
    """A forward put on the instance, as HQ-SAM's and accelerate's patches do."""
    mlp = sam.mask_decoder.iou_prediction_head
    forward = mlp.forward
    mlp.forward = lambda x: 2 * forward(x)


def own_method(sam: Any) -> None:
    """A method below forward put on the instance."""
    decoder = sam.mask_decoder
    predict_masks = decoder.predict_masks

    def shifted(*args: Any, **keywords: Any) -> Any:
        masks, iou = predict_masks(*args, **keywords)
        return masks - 1, iou

    decoder.predict_masks = shifted


def subclass(sam: Any) -> None:
    """A subclass that overrides forward."""
    kind = type(sam.mask_decoder.transformer)

    class Own(kind):  # type: ignore[valid-type,misc]
        def forward(self, *args: Any, **keywords: Any) -> Any:
            tokens, image = super().forward(*args, **keywords)
            return tokens * 1.5, image

    sam.mask_decoder.transformer.__class__ = Own


def hook(sam: Any) -> None:
    """A hook that changes an output."""
    sam.mask_decoder.transformer.layers[0].norm4.register_forward_hook(lambda m, a, output: output * 1.1)


def pre_hook(sam: Any) -> None:
    """A hook that changes an input."""
    sam.mask_decoder.output_upscaling.register_forward_pre_hook(lambda m, args: (args[0] * 1.1,))


def prompt_encoder_hook(sam: Any) -> None:
    """What stands for an absent mask is changed."""
    sam.prompt_encoder.register_forward_hook(lambda m, a, output: (output[0], output[1] * 2))


class Wrapper(nn.Module):
    """DataParallel and its like."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """Call what is wrapped."""
        masks, iou = self.module(*args, **keywords)
        return masks * 3, iou


def wrapper(sam: Any) -> None:
    """The decoder is wrapped."""
    sam.mask_decoder = Wrapper(sam.mask_decoder)


def other_activation(sam: Any) -> None:
    """The ONNX script's --gelu-approximate."""
    for module in sam.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"


def other_layer(sam: Any) -> None:
    """A layer more in the upscaling."""
    sam.mask_decoder.output_upscaling.append(nn.Dropout(0.0))


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, x: Tensor) -> Tensor:
        """Double."""
        return 2 * x


def parametrized(sam: Any) -> None:
    """torch.nn.utils.parametrize."""
    parametrize.register_parametrization(sam.mask_decoder.transformer.layers[1].mlp.lin2, "weight", Doubled())


def pruned(sam: Any) -> None:
    """torch.nn.utils.prune keeps a mask, and a hook that applies it."""
    from torch.nn.utils import prune

    prune.l1_unstructured(
        sam.mask_decoder.transformer.final_attn_token_to_image.out_proj, "weight", amount=0.5
    )


def quantised(sam: Any) -> None:
    """torch.quantization.quantize_dynamic."""
    sam.mask_decoder = torch.ao.quantization.quantize_dynamic(
        sam.mask_decoder, {nn.Linear}, dtype=torch.qint8
    )


def compiled(sam: Any) -> None:
    """torch.compile, with a backend that compiles nothing."""
    sam.mask_decoder = torch.compile(sam.mask_decoder, backend="eager")


CHANGES: list[Callable[[Any], None]] = [
    lora,
    own_forward,
    own_method,
    subclass,
    hook,
    pre_hook,
    prompt_encoder_hook,
    wrapper,
    other_activation,
    other_layer,
    parametrized,
    pruned,
    quantised,
    compiled,
]
"""And the calls that need the decoder to be called."""


def make_models(package: ModuleType) -> tuple[Sam, Any]:
    """Return ours and the reference, with the same weights."""
    reference = build_reference(package, SMALL)
    randomise(reference, seed=3)
    ours = build_architecture(SMALL)
    ours.load_state_dict(reference.state_dict())
    return ours, reference


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_decoder_is_the_originals(
    segment_anything: ModuleType, change: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The same logits and scores, which are not those without the change; and the log says so once."""
    ours, reference = make_models(segment_anything)
    before = SamPredictor(ours)
    before.set_image(IMAGE)
    plain = before.predict(**PROMPT, return_logits=True)
    for model in (ours, reference):
        change(model)
    predictor, expected = SamPredictor(ours), segment_anything.SamPredictor(reference)
    with caplog.at_level(logging.WARNING, "sam_engine"):
        for each in (predictor, expected):
            each.set_image(IMAGE)
        predictor.predict(**PROMPT)
        results = predictor.predict(**PROMPT, return_logits=True)

    for mine, theirs in zip(results, expected.predict(**PROMPT, return_logits=True), strict=True):
        assert np.abs(mine - theirs).max() <= RELATIVE * max(np.abs(theirs).max(), 0.1)
    if change not in (compiled, other_layer, other_activation, prompt_encoder_hook):
        assert any(np.abs(mine - old).max() > 0.01 for mine, old in zip(results, plain, strict=True))
    assert len([record for record in caplog.records if "own calls" in record.message]) == 1


@torch.no_grad()
def test_an_untouched_decoder_is_fast(segment_anything: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said, and the decoder is not called."""
    ours, _ = make_models(segment_anything)
    predictor = SamPredictor(ours)
    predictor.set_image(IMAGE)
    with caplog.at_level(logging.WARNING, "sam_engine"):
        predictor.predict(**PROMPT)

    assert not caplog.records
    assert ours._is_fast()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_masks_as_they_are(segment_anything: ModuleType, dtype: torch.dtype) -> None:
    """Prompts on the same features give the same to the last bit, under autocast or not."""
    ours, _ = make_models(segment_anything)
    predictor = SamPredictor(ours)
    predictor.set_image(IMAGE)
    expected = predictor.predict(**PROMPT, return_logits=True)
    with torch.autocast("cpu", dtype):
        found = predictor.predict(**PROMPT, return_logits=True)

    for x, y in zip(found, expected, strict=True):
        assert np.array_equal(x, y)


@torch.no_grad()
def test_features_of_autocast_are_taken(segment_anything: ModuleType) -> None:
    """An encoder run by hand under autocast gives half features; masks are made of them all the same."""
    ours, _ = make_models(segment_anything)
    predictor = SamPredictor(ours)
    predictor.set_image(IMAGE)
    predictor.features = predictor.features.bfloat16()
    masks, scores, logits = predictor.predict(**PROMPT, return_logits=True)

    assert (masks.dtype, scores.dtype, logits.dtype) == (np.float32, np.float32, np.float32)
    assert np.isfinite(masks).all()
