"""Sizes of a small model, and random weights for it and its twin in ``segment_anything`` 1.0."""

import math

import torch
from torch import nn

from sam_engine.catalogue import Architecture

SMALL = Architecture(
    image_size=256,
    embed_dim=48,
    depth=3,
    num_heads=3,
    global_attn_indexes=(1,),
    window_size=5,  # 16 tokens a side: padded to 20
    prompt_embed_dim=64,
    decoder_mlp_dim=96,
    iou_head_hidden_dim=40,
)


def randomise(model: nn.Module, seed: int) -> None:
    """Fill every tensor with noise of a size that keeps activations near 1 and attention uneven."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(model.state_dict().items()):
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name or tensor.ndim == 1:
            tensor.copy_(0.3 * noise + (1 if name.endswith("weight") else 0))
        elif any(part in name for part in ("rel_pos", "embed", "token", "gaussian")):
            tensor.copy_(0.5 * noise)
        else:
            tensor.copy_(noise / math.sqrt(tensor[0].numel()))
