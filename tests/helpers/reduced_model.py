"""A tiny smaller than ``tiny``, for tests that train."""

from dataclasses import replace

import torch

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import ARCHITECTURES
from sam_engine.modeling.sam import Sam
from sam_engine.training.initialise import tie_cross_attention

REDUCED = replace(
    ARCHITECTURES["tiny"],
    image_size=64,
    trunk_width=0.25,
    prompt_embed_dim=32,
    decoder_mlp_dim=64,
    iou_head_hidden_dim=32,
)


def reduced_model(seed: int = 0, image_size: int = REDUCED.image_size) -> Sam:
    torch.manual_seed(seed)
    sam = build_architecture(replace(REDUCED, image_size=image_size))
    tie_cross_attention(sam)
    return sam
