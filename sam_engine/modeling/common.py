"""Small layers that several networks share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    """Normalise each pixel over its channels: ``LayerNorm`` for (B, C, h, w) maps."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape; biased variance, as in `torch.nn.LayerNorm`."""
        mean = x.mean(1, keepdim=True)
        centred = x - mean
        variance = centred.square().mean(1, keepdim=True)
        normed = centred / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


class MLPBlock(nn.Module):
    """The two-layer perceptron of a transformer block."""

    def __init__(self, embedding_dim: int, mlp_dim: int, act: Callable[[], nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(embedding_dim, mlp_dim)
        self.lin2 = nn.Linear(mlp_dim, embedding_dim)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        y: Tensor = self.lin2(self.act(self.lin1(x)))
        return y
