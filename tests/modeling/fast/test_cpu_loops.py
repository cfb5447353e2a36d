"""Compiled loops at values that decoders rarely meet; `test_decoder` holds them to the operations."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sam_engine.modeling import mask_shapes
from sam_engine.modeling.fast.cpu_loops import (
    add_norm,
    count_masks,
    gelu_logits,
    norm_gelu,
    softmax_of_strip,
    softmax_of_tokens,
)


def noise(*shape: int, scale: float = 1.0) -> torch.Tensor:
    """Return float32 noise, the same each time."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("scale", [1e-3, 1, 30, 1e4])
def test_softmax_over_tokens(scale: float) -> None:
    """As torch's, whether scores are alike or one is far above the others."""
    scores, bias = noise(3, 7, 50, scale=scale), noise(3, 7, scale=scale)
    expected = (scores.double() + bias.double()[..., None]).softmax(dim=1)
    softmax_of_tokens(scores.numpy(), bias.numpy())

    assert (scores - expected).abs().max() < 1e-6 * max(1, scale)


@pytest.mark.parametrize("scale", [1e-3, 1, 30, 1e4])
@pytest.mark.parametrize("cuts", [[40], [1, 2, 40], [13, 26, 39, 40]])
def test_softmax_in_strips(scale: float, cuts: list[int]) -> None:
    """However tokens are cut, their means are those of a softmax over all."""
    scores, tokens = noise(5, 40, scale=scale), noise(40, 6)
    expected = scores.double().softmax(dim=1) @ tokens.double()
    top, total, read = torch.full((5,), -torch.inf), torch.zeros(5), torch.zeros(5, 6)
    start = 0
    for cut in cuts:
        strip = scores[:, start:cut].contiguous()
        softmax_of_strip(strip.numpy(), top.numpy(), total.numpy(), read.numpy())
        read += strip @ tokens[start:cut]
        start = cut

    assert torch.allclose((read / total[:, None]).double(), expected, atol=2e-6 * max(1, scale))


def test_weights_that_are_next_to_nothing_are_no_denormals() -> None:
    """Processors take tens of times as long for products with numbers below 1e-38."""
    scores = torch.tensor([[0, -50, -80, -87, -88, -100, -200, -1e30]])
    softmax_of_strip(scores.numpy(), np.full(1, -np.inf, "f4"), np.zeros(1, "f4"), np.zeros((1, 1), "f4"))

    assert (scores >= torch.finfo(torch.float32).tiny).all()
    assert torch.allclose(scores[0, :4], torch.tensor([0.0, -50, -80, -87]).exp(), rtol=1e-6, atol=0)
    assert (scores[0, 4:] < 2e-38).all()


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
@pytest.mark.parametrize("num_channels", [1, 7, 64, 256])
def test_normalisation(scale: float, num_channels: int) -> None:
    """As torch's: over any number of channels, of a part of the tokens."""
    before, pe, after = (
        noise(9, num_channels, scale=scale),
        noise(9, num_channels),
        torch.zeros(9, num_channels),
    )
    x, parameters = noise(4, num_channels, scale=scale), noise(2, num_channels)
    expected = F.layer_norm((x + before[3:7]).double(), (num_channels,), *parameters.double(), 1e-5)
    arrays = x.numpy(), before.numpy(), *parameters.numpy(), np.float32(1e-5)
    add_norm(*arrays, pe.numpy(), after.numpy(), 3)

    assert torch.allclose(after[3:7].double(), expected, atol=1e-5)
    assert torch.equal(x, after[3:7] + pe[3:7])
    assert not after[:3].any()
    assert not after[7:].any()


def test_gelu() -> None:
    """No further from the true function than torch's, up to where rounding of large values decides."""
    values = torch.linspace(-30, 30, 60_001)
    logits = torch.zeros(1, 4, 4 * 60_001)
    y = torch.zeros(16, 1, 60_001)
    y[0, 0] = values
    gelu_logits(y.numpy(), np.zeros(1, "f4"), None, 0, np.ones((1, 1), "f4"), 60_001, logits.numpy())
    exact = torch.tensor(
        [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in values.tolist()], dtype=torch.float64
    )
    errors = [
        (ours - exact).abs() / values.abs().clamp(min=1) for ours in (logits[0, 0, ::4], F.gelu(values))
    ]

    assert errors[0].max() < 2.5e-7
    assert errors[0].max() < 2 * errors[1].max()


@pytest.mark.parametrize("has_skip", [False, True])
def test_pixels_are_normalised_over_their_channels(has_skip: bool) -> None:
    """As torch's operations with channels last, from any token on."""
    y, bias, parameters = noise(4, 8, 5), noise(8), noise(2, 8)
    skip = noise(4, 8, 11) if has_skip else None
    added = y + bias[:, None] + (skip[:, :, 2:7] if has_skip else 0)
    expected = F.gelu(F.layer_norm(added.transpose(1, 2), (8,), *parameters, 1e-6)).transpose(1, 2)
    norm_gelu(
        y.numpy(), bias.numpy(), skip.numpy() if has_skip else None, 2, *parameters.numpy(), np.float32(1e-6)
    )

    assert torch.allclose(y, expected, atol=2e-6)


def test_logits_are_written_where_their_pixels_are() -> None:
    """Token by token in rows, 2 x 2 within 2 x 2 pixels of each."""
    y, logits = torch.zeros(16, 1, 5), torch.full((2, 12, 12), -1.0)
    y[:, 0] = torch.arange(16)[:, None] + 20 * torch.arange(5) + 100  # so large that GELU changes nothing
    weights = torch.tensor([[1.0], [2.0]])
    gelu_logits(y.numpy(), np.zeros(1, "f4"), None, 1, weights.numpy(), 3, logits.numpy())

    token = torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]) + 100
    assert torch.equal(logits[0, :4], torch.cat([torch.full((4, 4), -1), token, token + 20], dim=1))
    assert torch.equal(logits[1, 4:8], 2 * torch.cat([token + 40, token + 60, token + 80], dim=1))
    assert (logits[:, 8:] == -1).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    """Masks of a broken model must be known for what they are: no loop turns NaN into a number."""
    scores, bias = noise(2, 3, 40), torch.zeros(2, 3)
    scores[1, 2, 5] = value
    softmax_of_tokens(scores.numpy(), bias.numpy())
    assert scores[1, :, 5].isnan().any()
    assert scores.isfinite().sum() >= 2 * 3 * 40 - 3

    scores, read, total = noise(2, 40), torch.zeros(2, 3), torch.zeros(2)
    scores[1, 5] = value
    softmax_of_strip(scores.numpy(), np.full(2, -np.inf, "f4"), total.numpy(), read.numpy())
    assert scores[1].isnan().any()
    assert total.isnan().tolist() == [False, True]

    x, after, zero = noise(2, 8), torch.zeros(2, 8), torch.zeros(2, 8)
    x[1, 3] = value
    ones = np.ones(8, "f4")
    add_norm(x.numpy(), zero.numpy(), ones, ones, np.float32(1e-5), zero.numpy(), after.numpy(), 0)
    assert after.isnan().any(dim=1).tolist() == [False, True]

    y, logits = noise(16, 2, 5), torch.zeros(1, 4, 20)
    y[0, 1, 3] = value
    gelu_logits(y.numpy(), np.zeros(2, "f4"), None, 0, np.ones((1, 2), "f4"), 5, logits.numpy())
    assert (~logits.isfinite()).sum() == 1


@pytest.mark.parametrize("shape", [(3, 9, 7), (1, 1, 1), (4, 16, 128)])
def test_masks_are_counted(shape: tuple[int, int, int]) -> None:
    """All pixels, the outline along both axes, and every two masks."""
    logits = noise(*shape, scale=5)
    expected = mask_shapes.count_masks(logits[None])
    names = ("columns", "rows", "sums", "both")
    found = {name: torch.full_like(getattr(expected, name)[0], torch.nan) for name in names}
    count_masks(logits.numpy(), *(x.numpy() for x in found.values()))

    for name, counted in found.items():
        torch.testing.assert_close(counted, getattr(expected, name)[0])
