"""What every place of an image knows of all others: self-attention over a coarse map of features.

A small trunk's convolutions see a part of an image: the far half of a thing is not known to be of it.
"""

import torch
from torch import Tensor, nn

from sam_engine.modeling.common import MLPBlock
from sam_engine.modeling.transformer import Attention

DEPTH = 4
HEADS = 8
LONGEST = 32.0
"""Cells in a radian of the slowest wave that tells positions; of the fastest one: 1."""


class Context(nn.Module):
    """A map of features -> what is to be added to another of its size; nothing until it is trained.

    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", its blocks with normalisation first.
    """

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        self.enter = nn.Linear(in_chans, 2 * out_chans)
        self.blocks = nn.ModuleList(ContextBlock(2 * out_chans) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(2 * out_chans)
        self.leave = nn.Linear(2 * out_chans, out_chans)
        for parameter in self.leave.parameters():  # no effect until it is trained
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_chans, h, w) to (B, out_chans, h, w)."""
        height, width = x.shape[-2:]
        tokens = self.enter(x.flatten(2).transpose(1, 2))
        tokens = tokens + positions(height, width, tokens)
        for block in self.blocks:
            tokens = block(tokens)
        y: Tensor = self.leave(self.norm(tokens))
        return y.transpose(1, 2).reshape(len(x), -1, height, width)


class ContextBlock(nn.Module):
    """Tokens read each other, then each thinks for itself."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(chans)
        self.attn = Attention(chans, HEADS)
        self.norm2 = nn.LayerNorm(chans)
        self.mlp = MLPBlock(chans, 2 * chans, nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to the same shape."""
        y = self.norm1(x)
        x = x + self.attn(y, y, y)
        z: Tensor = x + self.mlp(self.norm2(x))
        return z


def positions(height: int, width: int, like: Tensor) -> Tensor:
    """Return sines and cosines of the rows and columns of cells, (height * width, C) for tokens (..., C).

    Source: Vaswani et al. 2017, "Attention Is All You Need", in two dimensions.
    """
    count = like.shape[-1] // 4
    waves = LONGEST ** -torch.linspace(0, 1, count, device=like.device)
    rows, columns = (torch.arange(n, device=like.device)[:, None] * waves for n in (height, width))
    rows = torch.cat([rows.sin(), rows.cos()], 1)[:, None].expand(-1, width, -1)
    columns = torch.cat([columns.sin(), columns.cos()], 1)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1).to(like.dtype)
