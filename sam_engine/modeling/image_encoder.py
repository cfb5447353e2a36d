"""The ViT image encoder: windowed and global attention with decomposed relative positions.

Source: Li et al. 2022, "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet), as
configured by Kirillov et al. 2023, "Segment Anything".
"""

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.catalogue import FAMILIES, VIT, Architecture, Family
from sam_engine.modeling.common import LayerNorm2d, MLPBlock

CPU_BLOCK_BYTES = 16 << 20
"""Of attention bias on a CPU: about what its caches hold; 64 MiB took 1.4 times as long."""
GPU_BLOCK_BYTES = 256 << 20
"""Of attention bias on a GPU, which wants large blocks: an image's global bias is 12 to 16 times 64 MiB."""

SkipFeatures = tuple[Tensor, Tensor]
"""Maps at strides 4 and 8, (B, C/8, S/4, S/4) and (B, C/4, S/8, S/8), added in the mask decoder."""


class ImageEncoder(nn.Module):
    """What `Sam` needs of an image encoder, of any family."""

    family: ClassVar[Family]
    img_size: int
    """Side S of the square input, in pixels."""

    @classmethod
    def from_architecture(cls, architecture: Architecture) -> Self:
        """Return an untrained encoder of these sizes."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> tuple[Tensor, SkipFeatures | None]:
        """Map normalised images (B, 3, S, S) to embeddings (B, C, S/16, S/16) and, if any, skip features."""
        raise NotImplementedError


class ImageEncoderViT(ImageEncoder):
    """A plain vision transformer whose output is a (B, out_chans, S/16, S/16) map."""

    family = FAMILIES[VIT]

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

    @classmethod
    def from_architecture(cls, architecture: Architecture) -> Self:
        """Return an untrained encoder of these sizes."""
        return cls(
            img_size=architecture.image_size,
            embed_dim=architecture.embed_dim,
            depth=architecture.depth,
            num_heads=architecture.num_heads,
            out_chans=architecture.prompt_embed_dim,
            window_size=architecture.window_size,
            global_attn_indexes=architecture.global_attn_indexes,
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
        self.attn = Attention(dim, num_heads, grid, window_size)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(dim, int(dim * mlp_ratio))
        self.branch_scale: Tensor | None = None
        """(2, B, 1, 1, 1) that training multiplies attention and perceptron by, to skip them now and then."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) to the same shape."""
        if self.branch_scale is not None:
            x = x + self.branch_scale[0] * self.attn(self.norm1(x))
            z: Tensor = x + self.branch_scale[1] * self.mlp(self.norm2(x))
            return z
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class Attention(nn.Module):
    """Self-attention with a learned bias per row offset and per column offset, whole or within windows."""

    def __init__(self, dim: int, num_heads: int, grid: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        size = window_size or grid
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) to the same shape; without windows, h and w are the grid's."""
        _, height, width, dim = x.shape
        qkv = self.qkv(x)
        if self.window_size:
            # Padding joins in as in the released models: zeros before the projection, its bias after it.
            qkv = partition_windows(qkv, self.window_size, self.qkv.bias)
        num_maps, rows, columns, _ = qkv.shape  # windows, or images
        qkv = qkv.view(num_maps, rows * columns, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2)  # each (maps * heads, rows * columns, C / heads)
        y = attend(
            q,
            k,
            v,
            self.rel_pos_h[_offsets(rows, q.device)],
            self.rel_pos_w[_offsets(columns, q.device)],
            block_bytes=CPU_BLOCK_BYTES if q.device.type == "cpu" else GPU_BLOCK_BYTES,
        )
        y = y.unflatten(0, (num_maps, -1)).transpose(1, 2).reshape(num_maps, rows, columns, dim)
        if self.window_size:
            y = merge_windows(y, self.window_size, (height, width))
        z: Tensor = self.proj(y)
        return z


def attend(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor, *, block_bytes: int) -> Tensor:
    """Return softmax(q k^T / sqrt(c) + bias) v, without ever holding the bias of all queries and keys.

    Query (i, j) and key (m, n) of a map of R x S tokens have the bias q . (table_h[i, m] + table_w[j, n]),
    with q unscaled. It is made for as many heads, or rows of queries of one head, as fit ``block_bytes``.

    Args:
        q: (N, R * S, c) queries of N heads, of any number of maps.
        k: (N, R * S, c) keys.
        v: (N, R * S, c) values.
        table_h: (R, R, c) by row of the query and of the key.
        table_w: (S, S, c) by column of the query and of the key.
        block_bytes: Size of a block's bias. It does not change the result.

    Returns:
        (N, R * S, c).
    """
    num_rows, num_columns = len(table_h), len(table_w)
    maps = q.unflatten(1, (num_rows, num_columns))
    bias_h = torch.einsum("nijc,imc->nijm", maps, table_h)
    bias_w = torch.einsum("nijc,jmc->nijm", maps, table_w)
    bytes_per_row = num_columns * num_rows * num_columns * q.element_size()
    heads_per_block = max(1, block_bytes // (bytes_per_row * num_rows))
    rows_per_block = min(num_rows, max(1, block_bytes // bytes_per_row))
    blocks = []
    for head in range(0, len(q), heads_per_block):
        heads = slice(head, head + heads_per_block)
        for row in range(0, num_rows, rows_per_block):
            rows = slice(row, row + rows_per_block)
            bias = bias_h[heads, rows, :, :, None] + bias_w[heads, rows, :, None, :]  # (n, r, S, R, S)
            mask = bias.flatten(3).flatten(1, 2)[None]
            queries = maps[heads, rows].flatten(1, 2)[None]
            y = F.scaled_dot_product_attention(queries, k[None, heads], v[None, heads], mask)
            # Blocks are several whole heads, or a part of one: either way the next block's tokens follow.
            blocks.append(y.flatten(0, 2))
    return torch.cat(blocks).view_as(q)


def _offsets(size: int, device: torch.device) -> Tensor:
    """Return (size, size) indices into a table of ``2 * size - 1`` offsets, by query and key position."""
    positions = torch.arange(size, device=device)
    return positions[:, None] - positions[None, :] + size - 1


def partition_windows(x: Tensor, size: int, fill: Tensor | None = None) -> Tensor:
    """Cut (B, h, w, C) into (B * windows, size, size, C), padded at the bottom and right.

    Padded tokens are ``fill`` (C,), or zeros.
    """
    batch, height, width, channels = x.shape
    padded = x.new_zeros(batch, height + -height % size, width + -width % size, channels)
    if fill is not None:
        padded[:, height:] = fill
        padded[:, :height, width:] = fill
    padded[:, :height, :width] = x
    windows: Tensor = padded.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    return windows.transpose(2, 3).flatten(0, 2)  # from (B, rows, size, columns, size, C)


def merge_windows(windows: Tensor, size: int, shape: Sequence[int]) -> Tensor:
    """Undo `partition_windows`: return (B, h, w, C) for ``shape`` = (h, w), without the padding."""
    height, width = shape
    rows, columns = -(-height // size), -(-width // size)
    x: Tensor = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3)
    x = x.flatten(3, 4).flatten(1, 2)
    return x[:, :height, :width].contiguous()
