"""Attention over the coarsest map of tiny's encoder."""

import pytest
import torch

from sam_engine.checkpoints.resolve import fitting_state_dict
from sam_engine.errors import CheckpointError
from sam_engine.modeling.context import Context, positions
from sam_engine.modeling.tiny_encoder import TinyEncoder
from tests.helpers.reference_models import randomise


def make_context() -> Context:
    """Return one that has an effect."""
    context = Context(5, 16)
    randomise(context, seed=0)
    return context


def test_untrained_it_adds_nothing_and_can_learn() -> None:
    """Its last layer is zero; the one before is not, or nothing would ever come through."""
    added = Context(5, 16)(torch.randn(2, 5, 3, 4))
    context = Context(5, 16)
    context(torch.randn(2, 5, 3, 4)).sum().backward()

    assert added.shape == (2, 16, 3, 4)
    assert not added.any()
    assert context.leave.weight.grad is not None
    assert context.leave.weight.grad.abs().max() > 0


def test_each_cell_knows_the_farthest() -> None:
    """A change in one corner is seen in all cells, not in other images of the batch."""
    context = make_context()
    x = torch.randn(2, 5, 6, 9, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[0, :, 5, 8] += 3
    change = (context(x) - context(other)).abs().amax(1)

    assert (change[0] > 1e-5).all()
    assert (change[1] < 1e-5).all()


def test_cells_know_where_they_are() -> None:
    """Equal features in a map that is not square: each cell has its own position, rows before columns."""
    places = positions(torch.zeros(2, 3, 4, 32))

    assert places.flatten(0, 1).unique(dim=0).shape == (12, 32)
    assert torch.equal(places[1, :, :16], places[1, :1, :16].expand(4, -1))
    assert torch.equal(places[:, 2, 16:], places[:1, 2, 16:].expand(3, -1))
    assert places[2, 0, 0] == pytest.approx(torch.tensor(2.0).sin().item())  # the fastest: a radian a cell
    assert places[0, 3, 31] == pytest.approx(torch.tensor(3 / 32).cos().item())  # and the slowest


def test_weights_from_before_it_are_as_they_were() -> None:
    """They are loaded with one of no effect; other parts of the encoder may not be missing."""
    torch.manual_seed(0)
    encoder = TinyEncoder(img_size=64, out_chans=32, width=0.25)
    prefix = "image_encoder."
    old = {prefix + k: v for k, v in encoder.state_dict().items() if not k.startswith("context.")}
    model = torch.nn.ModuleDict({"image_encoder": TinyEncoder(img_size=64, out_chans=32, width=0.25)})
    model.load_state_dict(fitting_state_dict(old, model, "old.safetensors"))
    image = torch.rand(1, 3, 64, 64)

    assert torch.equal(model["image_encoder"](image), encoder(image))
    del old[prefix + "lateral_32.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing: image_encoder\.lateral_32\.weight"):
        fitting_state_dict(old, model, "old.safetensors")
