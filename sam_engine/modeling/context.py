"""What each cell of a coarse map learns from all others: which of them are parts of one thing.

Convolutions see a window; whether this patch of fur is the cat's is said by the whole picture.
Source: Vaswani et al. 2017, "Attention Is All You Need", normalised first. Positions come from a depthwise
convolution instead of an embedding, so that maps may have any size: Chu et al. 2021, "Conditional Positional
Encodings for Vision Transformers".
"""

from torch import Tensor, nn

from sam_engine.modeling.attention import attention
from sam_engine.modeling.common import MLPBlock

HEAD_CHANS = 32
"""Channels of each attention head."""
MLP_RATIO = 4
"""Hidden channels of the perceptron relative to the block's."""


class Context(nn.Module):
    """Blocks of attention over a coarse map, and what they add to a map of the encoder."""

    def __init__(self, in_chans: int, chans: int, num_blocks: int, out_chans: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(in_chans, chans, 1)
        self.blocks = nn.ModuleList(ContextBlock(chans) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(chans)
        self.out = nn.Linear(chans, out_chans)
        for parameter in self.out.parameters():  # no effect until it is trained
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_chans, h, w) to (B, out_chans, h, w)."""
        y = self.enter(x)
        for block in self.blocks:
            y = block(y)
        added: Tensor = self.out(self.norm(y.permute(0, 2, 3, 1)))
        return added.permute(0, 3, 1, 2)


class ContextBlock(nn.Module):
    """Positions, attention of every cell to every other, and a perceptron; each added to its input."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.num_heads = max(1, chans // HEAD_CHANS)
        self.position = nn.Conv2d(chans, chans, 3, padding=1, groups=chans)
        self.norm1 = nn.LayerNorm(chans)
        self.qkv = nn.Linear(chans, 3 * chans)
        self.proj = nn.Linear(chans, chans)
        self.norm2 = nn.LayerNorm(chans)
        self.mlp = MLPBlock(chans, MLP_RATIO * chans)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        x = x + self.position(x)
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, h w, C)
        qkv = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, h w, c)
        tokens = tokens + self.proj(attention(q, k, v).transpose(1, 2).flatten(2))
        tokens = tokens + self.mlp(self.norm2(tokens))
        y: Tensor = tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return y
