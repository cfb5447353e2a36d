"""What every place of an image knows of all others: self-attention over a coarse map of features.

A small trunk's convolutions see a part of an image: the far half of a thing is not known to be of it.
"""

import torch
from torch import Tensor, nn

from sam_engine.modeling.image_encoder import Block

DEPTH = 4
HEADS = 8
LONGEST = 32.0
"""Cells in a radian of the slowest wave that tells positions; of the fastest one: 1."""


class Context(nn.Module):
    """A map of features -> what is to be added to another of its size; nothing until it is trained.

    Its blocks are those of a ViT.
    """

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        chans = 2 * out_chans
        self.enter = nn.Linear(in_chans, chans)
        self.blocks = nn.ModuleList(Block(chans, HEADS, 2.0, act_layer=nn.ReLU) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(chans)
        self.leave = nn.Linear(chans, out_chans)
        for parameter in self.leave.parameters():  # no effect until it is trained
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_chans, h, w) to (B, out_chans, h, w)."""
        tokens = self.enter(x.permute(0, 2, 3, 1))
        tokens = tokens + positions(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        y: Tensor = self.leave(self.norm(tokens))
        return y.permute(0, 3, 1, 2)


def positions(tokens: Tensor) -> Tensor:
    """Return sines and cosines of the rows and columns of cells, (h, w, C) for tokens (B, h, w, C).

    Source: Vaswani et al. 2017, "Attention Is All You Need", in two dimensions.
    """
    _, height, width, chans = tokens.shape
    waves = LONGEST ** -torch.linspace(0, 1, chans // 4, device=tokens.device)
    rows, columns = (torch.arange(n, device=tokens.device)[:, None] * waves for n in (height, width))
    rows = torch.cat([rows.sin(), rows.cos()], 1)[:, None].expand(-1, width, -1)
    columns = torch.cat([columns.sin(), columns.cos()], 1)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], 2).to(tokens.dtype)
