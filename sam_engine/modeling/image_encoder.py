"""The ViT image encoder: windowed and global attention with decomposed relative positions.

Source: Li et al. 2022, "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet), as
configured by Kirillov et al. 2023, "Segment Anything".
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.catalogue import FAMILIES, VIT, Architecture
from sam_engine.compute.device import is_queued
from sam_engine.modeling.any_encoder import ImageEncoder, SkipFeatures
from sam_engine.modeling.as_built import is_as_built
from sam_engine.modeling.attention import attention
from sam_engine.modeling.common import LayerNorm2d, MLPBlock

CPU_BLOCK_BYTES = 16 << 20
"""Of attention bias on a CPU: about what its caches hold; 64 MiB took 1.4 times as long."""
GPU_BLOCK_BYTES = 256 << 20
"""Of attention bias on a GPU, which wants large blocks: an image's global bias is 12 to 16 times 64 MiB."""


class ImageEncoderViT(ImageEncoder):
    """A plain vision transformer whose output is a (B, out_chans, H / patch_size, W / patch_size) map.

    Images need not be of ``img_size``, nor square, if ``pos_embed`` is made to fit or None: tables of
    relative positions are interpolated, as in segment_anything.
    """

    family = FAMILIES[VIT]

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
        qkv_bias: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
    ) -> None:
        """Make an encoder of these sizes; arguments and defaults are segment_anything's.

        The released models have ``use_rel_pos``, windows of 14 and a LayerNorm with an eps of 1e-6.
        ``rel_pos_zero_init`` changes nothing there either: tables are zero.
        """
        super().__init__()
        self.img_size = img_size
        grid = img_size // patch_size
        self.patch_embed = PatchEmbed(
            (patch_size, patch_size), (patch_size, patch_size), (0, 0), in_chans, embed_dim
        )
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, embed_dim)) if use_abs_pos else None
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias,
                norm_layer,
                act_layer,
                use_rel_pos,
                rel_pos_zero_init,
                0 if i in global_attn_indexes else window_size,
                (grid, grid),
            )
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
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=architecture.window_size,
            global_attn_indexes=architecture.global_attn_indexes,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to embeddings (B, out_chans, h, w)."""
        x = self.patch_embed(x)  # (B, h, w, C)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return y

    def forward_features(self, x: Tensor) -> tuple[Tensor, SkipFeatures | None]:
        """Return the embedding and no skip features: the released decoders take none."""
        return self(x), None


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each."""

    def __init__(
        self,
        kernel_size: tuple[int, int] = (16, 16),
        stride: tuple[int, int] = (16, 16),
        padding: tuple[int, int] = (0, 0),
        in_chans: int = 3,
        embed_dim: int = 768,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, h, w, C)."""
        y: Tensor = self.proj(x)
        return y.permute(0, 2, 3, 1)


class Block(nn.Module):
    """A transformer block.

    Attributes:
        window_size: Side of the windows to attend within, in tokens; 0 for all tokens. It may be set.
    """

    branch_scale: Tensor | None = None
    """(2, B, 1, 1, 1) that training multiplies attention and perceptron by, to skip them now and then."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(
            dim,
            num_heads,
            qkv_bias,
            use_rel_pos,
            rel_pos_zero_init,
            (window_size, window_size) if window_size else input_size,
        )
        self.norm2 = norm_layer(dim)
        self.mlp = MLPBlock(dim, int(dim * mlp_ratio), act_layer)
        self.window_size = window_size

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) to the same shape."""
        if self.branch_scale is not None:
            x = x + self.branch_scale[0] * self._attend(self.norm1(x))
            z: Tensor = x + self.branch_scale[1] * self.mlp(self.norm2(x))
            return z
        x = x + self._attend(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y

    def _attend(self, x: Tensor) -> Tensor:
        """Return the attention of (B, h, w, C), within windows if there are some."""
        if self.window_size == 0:
            whole: Tensor = self.attn(x)
            return whole
        if is_as_built(self.attn, Attention) and is_as_built(self.attn.qkv, nn.Linear):
            fast: Tensor = self.attn(x, self.window_size)
            return fast
        windows, padded_size = window_partition(x, self.window_size)
        return window_unpartition(self.attn(windows), self.window_size, padded_size, x.shape[1:3])


class Attention(nn.Module):
    """Self-attention with a learned bias per row offset and per column offset."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        """Make one for maps of ``input_size`` (h, w), of which only the tables of relative positions know."""
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.use_rel_pos = use_rel_pos
        if use_rel_pos:
            if input_size is None:
                raise ValueError("use_rel_pos needs input_size, the (h, w) of the map in tokens")
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * input_size[0] - 1, head_dim))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * input_size[1] - 1, head_dim))

    def forward(self, x: Tensor, window_size: int = 0) -> Tensor:
        """Map (B, h, w, C) to the same shape, attending within windows if their size is given.

        That is `window_partition` before and `window_unpartition` after it, but that padded tokens, of which
        there are up to 1.7 for each, need not be projected.
        """
        _, height, width, _ = x.shape
        qkv, padded_size = self.qkv(x), (height, width)
        if window_size:
            # Padding joins in as in the released models: zeros before the projection, its bias after it.
            qkv, padded_size = window_partition(qkv, window_size, self.qkv.bias)
        num_maps, rows, columns, _ = qkv.shape  # windows, or images
        qkv = qkv.reshape(num_maps, rows * columns, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2)  # each (maps * heads, rows * columns, C / heads)
        if self.use_rel_pos:
            y = attend(
                q,
                k,
                v,
                get_rel_pos(rows, rows, self.rel_pos_h),
                get_rel_pos(columns, columns, self.rel_pos_w),
                block_bytes=GPU_BLOCK_BYTES if is_queued(q.device) else CPU_BLOCK_BYTES,
                scale=self.scale,
            )
        else:
            y = attention(q[None], k[None], v[None], scale=self.scale)[0]
        y = y.view(num_maps, self.num_heads, rows * columns, -1).transpose(1, 2)
        y = y.reshape(num_maps, rows, columns, -1)
        if window_size:
            y = window_unpartition(y, window_size, padded_size, (height, width))
        z: Tensor = self.proj(y)
        return z


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table_h: Tensor,
    table_w: Tensor,
    *,
    block_bytes: int,
    scale: float | None = None,
) -> Tensor:
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
        scale: Factor of the products of queries and keys. None: 1 / sqrt(c).

    Returns:
        (N, R * S, c).
    """
    num_rows, num_columns = len(table_h), len(table_w)
    maps = q.view(len(q), num_rows, num_columns, -1)
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
            queries, mask = maps[heads, rows].flatten(1, 2)[None], bias.flatten(3).flatten(1, 2)[None]
            y = attention(queries, k[None, heads], v[None, heads], mask, scale=scale)
            # Blocks are several whole heads, or a part of one: either way the next block's tokens follow.
            blocks.append(y.flatten(0, 2))
    return torch.cat(blocks).view_as(q)


def get_rel_pos(q_size: int, k_size: int, rel_pos: Tensor) -> Tensor:
    """Return (q_size, k_size, c): the row of a table of offsets (L, c) for each query and key.

    A table for another size is interpolated to the ``2 * max(q_size, k_size) - 1`` offsets there are; of two
    sizes the smaller is stretched.
    """
    num_offsets = 2 * max(q_size, k_size) - 1
    if len(rel_pos) != num_offsets:
        rel_pos = F.interpolate(rel_pos.T[None], num_offsets, mode="linear")[0].T
    if q_size == k_size:
        positions = torch.arange(q_size, device=rel_pos.device)
        return rel_pos[positions[:, None] - positions[None, :] + q_size - 1]
    stretch_q, stretch_k = max(k_size / q_size, 1.0), max(q_size / k_size, 1.0)
    queries = torch.arange(q_size, device=rel_pos.device)[:, None] * stretch_q
    keys = torch.arange(k_size, device=rel_pos.device)[None, :] * stretch_k
    return rel_pos[(queries - keys + (k_size - 1) * stretch_k).long()]


def add_decomposed_rel_pos(
    attn: Tensor,
    q: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    q_size: tuple[int, int],
    k_size: tuple[int, int],
) -> Tensor:
    """Return scores with the bias of `attend` added, whole: `Attention` does not use it.

    Args:
        attn: (B, q_h * q_w, k_h * k_w) scores.
        q: (B, q_h * q_w, c) queries, unscaled.
        rel_pos_h: Table (L, c) of row offsets.
        rel_pos_w: Table (L, c) of column offsets.
        q_size: (h, w) of the queries' map.
        k_size: (h, w) of the keys' map.
    """
    maps = q.reshape(len(q), *q_size, -1)
    bias_h = torch.einsum("bijc,imc->bijm", maps, get_rel_pos(q_size[0], k_size[0], rel_pos_h))
    bias_w = torch.einsum("bijc,jmc->bijm", maps, get_rel_pos(q_size[1], k_size[1], rel_pos_w))
    bias = bias_h[..., :, None] + bias_w[..., None, :]  # (B, q_h, q_w, k_h, k_w)
    return attn + bias.flatten(3).flatten(1, 2)


def window_partition(
    x: Tensor, window_size: int, fill: Tensor | None = None
) -> tuple[Tensor, tuple[int, int]]:
    """Cut (B, h, w, C) into windows, padded at the bottom and right with ``fill`` (C,), or zeros.

    Returns:
        (B * windows, window_size, window_size, C), and the (h, w) of the padded map.
    """
    batch, height, width, channels = x.shape
    padded_height = height + (window_size - height % window_size) % window_size
    padded_width = width + (window_size - width % window_size) % window_size
    padded = x.new_zeros(batch, padded_height, padded_width, channels)
    if fill is not None:
        padded[:, height:] = fill
        padded[:, :height, width:] = fill
    padded[:, :height, :width] = x
    rows, columns = padded_height // window_size, padded_width // window_size
    windows = padded.view(batch, rows, window_size, columns, window_size, channels).transpose(2, 3)
    return windows.flatten(0, 2), (padded_height, padded_width)


def window_unpartition(
    windows: Tensor, window_size: int, pad_hw: tuple[int, int], hw: Sequence[int]
) -> Tensor:
    """Undo `window_partition`: return (B, h, w, C) for ``hw`` = (h, w), without the padding."""
    rows, columns = pad_hw[0] // window_size, pad_hw[1] // window_size
    x = windows.reshape(-1, rows, columns, *windows.shape[1:]).transpose(2, 3)
    x = x.flatten(3, 4).flatten(1, 2)
    return x[:, : hw[0], : hw[1]].contiguous()
