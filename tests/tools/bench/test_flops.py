"""The operations of each model, against published numbers and torch's own counter."""

from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import ARCHITECTURES, Architecture
from sam_engine.modeling import mask_decoder
from sam_engine.modeling.prompt_maps import NUM_MAPS, PromptPlaces
from tests.helpers.reference_models import SMALL
from tools.bench.flops import decoder_gflops, encoder_gflops, floor_gflops


@pytest.mark.parametrize(("model", "gflop"), [("vit_b", 972), ("vit_l", 2986), ("vit_h", 5961)])
def test_encoders_of_the_released_models(model: str, gflop: float) -> None:
    """As counted on the original, in whole GFLOP."""
    assert encoder_gflops(ARCHITECTURES[model]) == pytest.approx(gflop, abs=0.6)


def test_decoder_of_the_released_models() -> None:
    """3623 MFLOP for each prompt of the original; 787 for the transformer where nothing is done twice."""
    decoder = decoder_gflops(ARCHITECTURES["vit_h"])

    assert decoder.released == pytest.approx(3.623, abs=0.001)
    assert decoder.transformer == pytest.approx(0.787, rel=0.01)
    assert decoder.once == pytest.approx(0.805, abs=0.001)
    assert decoder.upscaling == pytest.approx(0.819, abs=0.002)


def make_maps(places: PromptPlaces, x: Tensor, y: Tensor) -> Tensor:
    """Return maps as `prompt_maps` does, without looking at the prompts: there are none on device meta."""
    return torch.empty(len(places), NUM_MAPS, len(y), len(x))


def counted_gflops(architecture: Architecture, *, prompts: int = 0) -> float:
    """Return what torch counts, of the encoder or of the released decoder."""
    with torch.device("meta"), mock.patch.object(mask_decoder, "prompt_maps", make_maps):
        sam = build_architecture(architecture)
        size, channels = architecture.image_size, architecture.prompt_embed_dim
        features = torch.empty(1, channels, size // 16, size // 16)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            if prompts:
                sparse, dense = torch.empty(prompts, 2, channels), torch.empty(prompts, *features.shape[1:])
                places = sam.prompt_encoder.places((torch.empty(prompts, 1, 2), torch.ones(prompts, 1)), None)
                skips = None
                if architecture.family.has_skip_features:
                    side = size // 16
                    skips = (
                        torch.empty(1, channels // 8, 4 * side, 4 * side),
                        torch.empty(1, channels // 4, 2 * side, 2 * side),
                    )
                sam.mask_decoder(features, features, sparse, dense, True, skip_features=skips, places=places)
            else:
                sam.image_encoder.forward_features(torch.empty(1, 3, size, size))
    return counter.get_total_flops() / 1e9


@pytest.mark.parametrize("architecture", [ARCHITECTURES["tiny"], SMALL])
def test_released_decoder_as_torch_counts(architecture: Architecture) -> None:
    """Any sizes."""
    counted = counted_gflops(architecture, prompts=3)

    assert 3 * decoder_gflops(architecture).released == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("width", [1.0, 0.25])
def test_tiny_encoder_as_torch_counts(width: float) -> None:
    """A walk over the same table of stages."""
    architecture = replace(ARCHITECTURES["tiny"], trunk_width=width)

    assert encoder_gflops(architecture) == pytest.approx(counted_gflops(architecture), rel=1e-9)


def test_floor_of_an_image() -> None:
    """What prompts share counts once, and padding is not upscaled."""
    architecture = ARCHITECTURES["vit_b"]
    decoder = decoder_gflops(architecture)
    encode, decode = floor_gflops(architecture, num_prompts=10, image_fraction=0.5)

    assert encode == encoder_gflops(architecture)
    assert decode == pytest.approx(decoder.once + 10 * (decoder.transformer + decoder.upscaling / 2))
