"""Skip blocks of a ViT at random while it is trained.

Source: Huang et al. 2016, "Deep Networks with Stochastic Depth"; rates as Kirillov et al. 2023 use them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from sam_engine.modeling.image_encoder import Block, ImageEncoderViT


@contextmanager
def drop_path(encoder: nn.Module, rate: float, generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Skip attention and perceptron of each block for some of the images; the kept ones are scaled up for it.

    Args:
        encoder: A ViT; others have no blocks to skip.
        rate: Chance to skip in the last block; it grows linearly from 0 in the first.
        generators: One for each image of the batch, on the CPU.
    """
    if rate == 0 or not isinstance(encoder, ImageEncoderViT):
        yield
        return
    blocks = [cast(Block, block) for block in encoder.blocks]
    draws = torch.stack([torch.rand(len(blocks), 2, generator=generator) for generator in generators])
    try:
        for i, block in enumerate(blocks):
            chance = rate * i / max(1, len(blocks) - 1)
            kept = (draws[:, i] >= chance).T / (1 - chance)  # (2, B)
            block.branch_scale = kept[..., None, None, None].to(encoder.pos_embed.device)
        yield
    finally:
        for block in blocks:
            block.branch_scale = None
