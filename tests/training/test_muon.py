"""Matrices that move by orthogonal updates, beside what AdamW moves as ever."""

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from sam_engine.training.data.batches import StepBatches
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.muon import SCALE, Muon, orthogonal
from sam_engine.training.steps import train
from sam_engine.training.trainer import Trainer
from tests.helpers.reference_models import make_learning_tiny
from tests.training.test_trainer import settings

RATE = 0.01


def moved(optimizer_of, parameters, gradients):
    """Return what one step moves copies of ``parameters`` by."""
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    for copy, gradient in zip(copies, gradients, strict=True):
        copy.grad = gradient.clone()
    optimizer_of(copies).step()
    return [(copy - parameter).detach() for copy, parameter in zip(copies, parameters, strict=True)]


def muon_of(copies, *, decays=True):
    """Return the optimiser of parameters that decay by nothing, and whether they are of what does."""
    return Muon([{"params": copies, "lr": RATE, "decays": decays, "weight_decay": 0.0}])


def adamw_of(copies):
    """Return the optimiser to compare with."""
    return torch.optim.AdamW(copies, lr=RATE, weight_decay=0.0)


@pytest.mark.parametrize("shape", [(32, 32), (96, 24), (16, 200)])
def test_singular_values_come_near_one(shape):
    """Of a matrix whose own lie a hundredfold apart."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(0, -2, min(shape), dtype=torch.float64)
    found = orthogonal(u * values @ v)

    assert found.shape == shape
    ours = u.T @ found @ v.T  # diagonal: the directions stay
    assert (ours.diagonal() > 0.3).all()
    assert (ours.diagonal() < 1.3).all()
    torch.testing.assert_close(ours, ours.diagonal().diag(), atol=1e-9, rtol=0)


def test_update_is_as_large_as_adamws_whatever_the_gradient():
    """Root mean square `SCALE` times the rate, for kernels, too; a hundredfold gradient changes nothing."""
    torch.manual_seed(0)
    for shape in ((64, 64), (128, 32, 3, 3), (32, 128, 1, 1)):
        weight, gradient = torch.randn(shape), torch.randn(shape)
        once, [more] = moved(muon_of, [weight], [gradient]), moved(muon_of, [weight], [100 * gradient])

        assert once[0].square().mean().sqrt() == pytest.approx(SCALE * RATE, rel=0.3)
        torch.testing.assert_close(once[0], more, atol=1e-6, rtol=0)


def test_order_in_memory_does_not_matter():
    """Kernels lie channels last while they are trained."""
    torch.manual_seed(0)
    weight, gradient = torch.randn(32, 24, 3, 3), torch.randn(32, 24, 3, 3)
    last = torch.channels_last
    [one] = moved(muon_of, [weight], [gradient])
    [other] = moved(muon_of, [weight.to(memory_format=last)], [gradient.to(memory_format=last)])

    torch.testing.assert_close(one, other, atol=1e-7, rtol=0)


def test_what_is_no_matrix_moves_as_by_adamw():
    """Biases, kernels of one channel, and whatever does not decay."""
    torch.manual_seed(0)
    weights = [torch.randn(64), torch.randn(32, 1, 3, 3), torch.randn(4, 32)]
    gradients = [torch.randn_like(weight) for weight in weights]
    ours = moved(muon_of, weights, gradients)
    theirs = moved(adamw_of, weights, gradients)
    embedding, gradient = torch.randn(64, 64), torch.randn(64, 64)
    [ours_embedding] = moved(functools.partial(muon_of, decays=False), [embedding], [gradient])
    [theirs_embedding] = moved(adamw_of, [embedding], [gradient])

    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert torch.equal(ours_embedding, theirs_embedding)


@pytest.mark.parametrize(("first", "second"), [("adamw", "muon"), ("muon", "adamw")])
def test_run_goes_on_with_the_other(dataset: PackedDataset, tmp_path: Path, first: str, second: str):
    """Moments of the one are of no use to the other, which begins anew."""
    batches = StepBatches(dataset, settings(tmp_path))
    train(Trainer(make_learning_tiny(), settings(tmp_path, total_steps=2, optimizer=first)), batches)
    trainer = Trainer(make_learning_tiny(), settings(tmp_path, total_steps=4, optimizer=second))
    trainer.resume(tmp_path)
    losses = []
    train(trainer, batches, report=lambda step, values: losses.append(values["loss"]))

    assert len(losses) == 2
    kinds = {key for state in trainer.optimizer.state.values() for key in state}
    assert ("momentum" in kinds) == (second == "muon")
