"""Models of ``segment_anything`` 1.0 with our sizes, and random weights for both."""

import math
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import nn

from sam_engine.build import Architecture

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


def build_reference(package: ModuleType, architecture: Architecture) -> Any:
    """Return the reference's model of these sizes, in eval mode."""
    modeling = package.modeling
    size, channels = architecture.image_size, architecture.prompt_embed_dim
    return modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=size,
            embed_dim=architecture.embed_dim,
            depth=architecture.depth,
            num_heads=architecture.num_heads,
            out_chans=channels,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=architecture.window_size,
            global_attn_indexes=architecture.global_attn_indexes,
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(size // 16, size // 16),
            input_image_size=(size, size),
            mask_in_chans=16,
        ),
        mask_decoder=modeling.MaskDecoder(
            transformer_dim=channels,
            transformer=modeling.TwoWayTransformer(
                depth=2,
                embedding_dim=channels,
                num_heads=architecture.decoder_heads,
                mlp_dim=architecture.decoder_mlp_dim,
            ),
            iou_head_hidden_dim=architecture.iou_head_hidden_dim,
        ),
        pixel_mean=architecture.pixel_mean,
        pixel_std=architecture.pixel_std,
    ).eval()


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
