"""Architectures by name, and the build functions of ``segment_anything``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sam_engine.config import ModelConfig
from sam_engine.errors import ConfigError
from sam_engine.modeling.image_encoder import ImageEncoderViT
from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.prompt_encoder import PromptEncoder
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.tiny_encoder import TinyEncoder
from sam_engine.modeling.transformer import TwoWayTransformer


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of a model. Anything may be made smaller: tests build models of a few hundred kB."""

    encoder: str = "vit"
    """vit, or tiny: the convolutional encoder with skip features."""
    image_size: int = 1024
    """Side of the square input, in pixels; a multiple of 32 for tiny and of 16 for vit."""
    embed_dim: int = 768
    """Channels of the ViT."""
    depth: int = 12
    """Blocks of the ViT."""
    num_heads: int = 12
    """Attention heads of the ViT."""
    global_attn_indexes: tuple[int, ...] = ()
    """Blocks that attend to the whole map; the others to windows."""
    window_size: int = 14
    """Side of a window, in tokens."""
    trunk_width: float = 1.0
    """Channels of the tiny trunk, relative to MobileNetV2 1.0."""
    prompt_embed_dim: int = 256
    """Channels of image embedding, prompts and decoder; a multiple of 8 * decoder_heads / 4."""
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_hidden_dim: int = 256
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB, in [0, 255]."""
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)


ARCHITECTURES = {
    "tiny": Architecture(
        encoder="tiny",
        image_size=512,
        prompt_embed_dim=128,
        decoder_mlp_dim=512,
        iou_head_hidden_dim=128,
        pixel_mean=(127.5, 127.5, 127.5),
        pixel_std=(127.5, 127.5, 127.5),
    ),
    "vit_b": Architecture(embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)),
    "vit_l": Architecture(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
    "vit_h": Architecture(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)),
}


def build_architecture(architecture: Architecture) -> Sam:
    """Return a model of these sizes with untrained weights, on the CPU, in eval mode."""
    size, channels = architecture.image_size, architecture.prompt_embed_dim
    grid = size // 16
    encoder: ImageEncoderViT | TinyEncoder
    if architecture.encoder == "tiny":
        encoder = TinyEncoder(img_size=size, out_chans=channels, width=architecture.trunk_width)
    else:
        encoder = ImageEncoderViT(
            img_size=size,
            embed_dim=architecture.embed_dim,
            depth=architecture.depth,
            num_heads=architecture.num_heads,
            out_chans=channels,
            window_size=architecture.window_size,
            global_attn_indexes=architecture.global_attn_indexes,
        )
    sam = Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(grid, grid),
            input_image_size=(size, size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=channels,
                num_heads=architecture.decoder_heads,
                mlp_dim=architecture.decoder_mlp_dim,
            ),
            transformer_dim=channels,
            iou_head_hidden_dim=architecture.iou_head_hidden_dim,
        ),
        pixel_mean=architecture.pixel_mean,
        pixel_std=architecture.pixel_std,
    )
    return sam.eval()
