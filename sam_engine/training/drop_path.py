"""Skip blocks of a ViT at random while it is trained.

Source: Huang et al. 2016, "Deep Networks with Stochastic Depth"; rates as Kirillov et al. 2023 use them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sam_engine.compute.device import upload


@contextmanager
def drop_path(encoder: nn.Module, rate: float, generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Skip attention and perceptron of each block for some of the images; the kept ones are scaled up for it.

    Args:
        encoder: The modules with a ``branch_scale`` are its blocks; without any nothing happens.
        rate: Chance to skip in the last block; it grows linearly from 0 in the first.
        generators: One for each image of the batch, on the CPU.
    """
    blocks: list[Any] = [module for module in encoder.modules() if hasattr(module, "branch_scale")]
    if rate == 0 or not blocks:
        yield
        return
    draws = torch.stack([torch.rand(len(blocks), 2, generator=generator) for generator in generators])
    try:
        chances = [rate * i / max(1, len(blocks) - 1) for i in range(len(blocks))]
        kept = [(draws[:, i] >= chance).T / (1 - chance) for i, chance in enumerate(chances)]  # each (2, B)
        scales = upload(torch.stack(kept)[..., None, None, None], next(encoder.parameters()).device)
        for block, scale in zip(blocks, scales, strict=True):
            block.branch_scale = scale
        yield
    finally:
        for block in blocks:
            block.branch_scale = None
