"""Muon: matrices move by the nearest orthogonal matrix to their momentum, everything else by AdamW.

Sources: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (its iteration and its
constants); Liu et al. 2025, "Muon is Scalable for LLM Training" (the scale, with which the learning rates of
AdamW serve). `torch.optim.Muon` takes two-dimensional parameters alone, and half of tiny's are kernels.
Processes of one run compute the same updates each for itself, which takes machines of one kind.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
MIN_SIDE = 16
"""Of a matrix, rows and columns: what is narrower is AdamW's."""
SCALE = 0.2
"""Root of the mean square of an update of AdamW, relative to the learning rate."""
NUM_ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that brings singular values near 1 in so many iterations."""


class Muon(torch.optim.Optimizer):
    """Muon for matrices and kernels, AdamW for norms, biases, embeddings and kernels of one channel."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Divide groups of `parameter_groups` between the two."""
        divided: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for group in groups:
            for is_matrix, chosen in divided.items():
                parameters = [p for p in group["params"] if _is_matrix(p, group) == is_matrix]
                if parameters:
                    chosen.append(group | {"params": parameters})
        matrices, others = divided[True], divided[False]
        super().__init__(matrices or others, {"lr": 0.0, "weight_decay": 0.0})
        self._matrices = self.param_groups if matrices else []
        self._others = torch.optim.AdamW(others) if others else None
        if self._others is not None:
            # One list of groups and one state, for whoever sets rates, saves or resumes.
            self._others.state = self.state
            self.param_groups = [*self._matrices, *self._others.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient by its group's ``lr``."""
        if self._others is not None:
            self._others.step()
        for group in self._matrices:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group["lr"], group["weight_decay"])

    def _move(self, parameter: nn.Parameter, gradient: Tensor, rate: float, decay: float) -> None:
        state = self.state[parameter]
        if "momentum" not in state:
            state.clear()  # AdamW's, in a run that began with it
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM)  # Nesterov's
        update = orthogonal(ahead.flatten(1)).view(parameter.shape)
        scale = SCALE * max(len(parameter), parameter[0].numel()) ** 0.5
        parameter.mul_(1 - rate * decay).add_(update, alpha=-rate * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return nearly the nearest matrix (n, m) of singular values 1: most come to lie in 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    nearest: Tensor = x.T if is_tall else x
    return nearest


def _is_matrix(parameter: nn.Parameter, group: dict[str, Any]) -> bool:
    """Whether Muon moves a parameter: one that decays, is no embedding, and has rows and columns enough."""
    if parameter.ndim < 2 or not group["decays"]:
        return False
    return min(len(parameter), parameter[0].numel()) >= MIN_SIDE
