"""The ViT image encoder: windowed and global attention with decomposed relative positions.

Source: Li et al. 2022, "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet), as
configured by Kirillov et al. 2023, "Segment Anything".
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.modeling.layers import LayerNorm2d, MLPBlock

SkipFeatures = tuple[Tensor, Tensor]
"""Maps at strides 4 and 8, (B, C/8, S/4, S/4) and (B, C/4, S/8, S/8), added in the mask decoder."""


class ImageEncoderViT(nn.Module):
    """A plain vision transformer whose output is a (B, out_chans, S/16, S/16) map."""

    def __init__(
        self,
        *,
        img_size: int = 1024,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
        window_size: int = 14,
        global_attn_indexes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.img_size = img_size
        grid = img_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, embed_dim))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, grid, 0 if i in global_attn_indexes else window_size)
            for i in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dim, out_chans, 1, bias=False),
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, 3, S, S) to embeddings (B, out_chans, S/16, S/16)."""
        x = self.patch_embed(x) + self.pos_embed  # (B, h, w, C)
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return y

    def forward_features(self, x: Tensor) -> tuple[Tensor, SkipFeatures | None]:
        """Return the embedding and no skip features: the released decoders take none."""
        return self(x), None


class PatchEmbed(nn.Module):
    """Cut an image into square patches and project each."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, h, w, C)."""
        y: Tensor = self.proj(x)
        return y.permute(0, 2, 3, 1)


class Block(nn.Module):
    """A transformer block, over windows of ``window_size`` tokens a side or, if 0, over all tokens."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, grid: int, window_size: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, window_size or grid)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(dim, int(dim * mlp_ratio))
        self.window_size = window_size

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) to the same shape."""
        y = self.norm1(x)
        if self.window_size:
            windows = partition_windows(y, self.window_size)
            y = merge_windows(self.attn(windows), self.window_size, x.shape[1:3])
        else:
            y = self.attn(y)
        x = x + y
        z: Tensor = x + self.mlp(self.norm2(x))
        return z


class Attention(nn.Module):
    """Self-attention over a square of tokens, with a learned bias per row offset and per column offset."""

    def __init__(self, dim: int, num_heads: int, size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, s, s, C) to the same shape, where s is the size that the block was made for."""
        batch, height, width, dim = x.shape
        qkv = self.qkv(x).view(batch, height * width, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, s * s, C / heads)
        bias = self._relative_position_bias(q, height, width)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        y = y.transpose(1, 2).reshape(batch, height, width, dim)
        z: Tensor = self.proj(y)
        return z

    def _relative_position_bias(self, q: Tensor, height: int, width: int) -> Tensor:
        """Return (B, heads, s * s, s * s), to be added to the scaled scores. It uses q as it is, unscaled."""
        rows = q.unflatten(2, (height, width))  # (B, heads, s, s, C / heads)
        table_h = self.rel_pos_h[_offsets(height, q.device)]  # (s, s, C / heads) by query row, key row
        table_w = self.rel_pos_w[_offsets(width, q.device)]
        bias_h = torch.einsum("bnhwc,hkc->bnhwk", rows, table_h)
        bias_w = torch.einsum("bnhwc,wkc->bnhwk", rows, table_w)
        bias = bias_h[..., :, None] + bias_w[..., None, :]  # (B, heads, s, s, s, s)
        return bias.flatten(4).flatten(2, 3)


def _offsets(size: int, device: torch.device) -> Tensor:
    """Return (size, size) indices into a table of ``2 * size - 1`` offsets, by query and key position."""
    positions = torch.arange(size, device=device)
    return positions[:, None] - positions[None, :] + size - 1


def partition_windows(x: Tensor, size: int) -> Tensor:
    """Cut (B, h, w, C) into (B * windows, size, size, C), zero-padded at the bottom and right.

    Padded tokens take part in attention like any other, as in the released models.
    """
    _, height, width, _ = x.shape
    x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (B, rows, size, columns, size, C)
    return x.transpose(2, 3).flatten(0, 2)


def merge_windows(windows: Tensor, size: int, shape: Sequence[int]) -> Tensor:
    """Undo `partition_windows`: return (B, h, w, C) for ``shape`` = (h, w), without the padding."""
    height, width = shape
    rows, columns = -(-height // size), -(-width // size)
    x: Tensor = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3)
    x = x.flatten(3, 4).flatten(1, 2)
    return x[:, :height, :width].contiguous()
