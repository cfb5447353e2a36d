"""The small models of all tests, and random weights for them and their twins in ``segment_anything`` 1.0."""

import math
from dataclasses import replace

import torch
from torch import nn

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import ARCHITECTURES, Architecture
from sam_engine.modeling.sam import Sam
from sam_engine.training.initialise import tie_cross_attention

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

SMALL_TINY = replace(
    ARCHITECTURES["tiny"],
    image_size=64,
    trunk_width=0.25,
    prompt_embed_dim=32,
    decoder_mlp_dim=64,
    iou_head_hidden_dim=32,
)


def make_reduced_tiny(seed: int = 0, image_size: int = 128) -> Sam:
    """Return a tiny model of a few hundred kB with seeded weights, and the same ones every time."""
    torch.manual_seed(seed)
    return build_architecture(replace(SMALL_TINY, image_size=image_size))


def make_learning_tiny(seed: int = 0, image_size: int = SMALL_TINY.image_size) -> Sam:
    """Return one as training from nothing starts with."""
    sam = make_reduced_tiny(seed, image_size)
    tie_cross_attention(sam)
    return sam


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
