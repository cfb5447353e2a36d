"""Low-resolution logits of many kinds, and frames of many shapes."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sam_engine.amg.measure import LogitFrame
from sam_engine.ops.resize import ResizeLongestSide

SIZES = [
    (97, 131),
    (131, 97),
    (300, 40),
    (31, 400),
    (256, 256),
    (600, 500),
    (5, 7),
    (1, 900),
    (1, 1),
    (500, 700),
]
"""Up- and downscaled, unchanged, not divisible by anything, tall and wide, as (H, W)."""


def frame_of(size: tuple[int, int], image_size: int) -> LogitFrame:
    return LogitFrame(
        image_size=image_size,
        input_size=ResizeLongestSide(image_size).target_size(size),
        original_size=size,
    )


def drawings(side: int, seed: int, scale: float = 1.0) -> Tensor:
    """Return (N, side, side) logits: blobs with rough edges, noise, dots, and maps of one value."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.arange(side) + 0.5
    blobs = []
    for _ in range(6):
        y, x, radius = (torch.rand(3, generator=generator) * side).tolist()
        distance = torch.sqrt((centres[:, None] - y) ** 2 + (centres - x) ** 2)
        bumps = F.interpolate(torch.randn(1, 1, 8, 8, generator=generator), (side, side), mode="bicubic")[
            0, 0
        ]
        rough = 0.1 * torch.randn(side, side, generator=generator)
        blobs.append(radius / 3 - distance + bumps + rough)
    flat = [torch.full((side, side), value) for value in (-5.0, -1.0, 0.0, 1.0, 5.0)]
    noise = 3 * torch.randn(side, side, generator=generator)
    point = torch.full((side, side), -9.0)
    point[side // 3, side // 2] = 4.0
    corner = point.roll((side // 3, side // 2), dims=(0, 1))
    corner[-1, -1] = corner[0, 0] = 9.0
    return torch.stack([*blobs, *flat, noise, point, corner]) * scale
