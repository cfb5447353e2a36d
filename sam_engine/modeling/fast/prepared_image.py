"""What all prompts on one image share, computed once for the fast decoder.

N image tokens, H attention heads of D channels; otherwise the letters of this package.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sam_engine.modeling.any_encoder import SkipFeatures
from sam_engine.modeling.fast.absorbed_projections import split_heads, two_way_blocks
from sam_engine.modeling.mask_decoder import MaskDecoder

STRIP_BYTES = 2**19
"""How much of a prompt's image a CPU's core works on at once: with as much again, what its cache holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """All that the prompts on one image share. Valid as long as the weights that made it."""

    image: Tensor
    """(N, C) embedding plus no-mask embedding."""
    image_pe: Tensor
    """(N, C) positional encoding."""
    key: Tensor
    """(H, N, D), which layer 0's attention of tokens to image reads."""
    value: Tensor
    """(H, N, D), likewise."""
    query: Tensor
    """(H, D, N) of layer 0's attention of image to tokens, divided by the root of D."""
    size: tuple[int, int]
    """(h, w) of the embedding."""
    skip_8: Tensor | None
    """(h, w, 4, C / 4), added after the first upscaling: 2 x 2 pixels of each token."""
    skip_4: Tensor | None
    """(h, w, 16, C / 8), added after the second upscaling: 2 x 2 pixels of each of those."""

    @property
    def has_loops(self) -> bool:
        """Compiled loops can work on it: float32 on a CPU. Else torch's operations do, their slow twin."""
        return self.image.device.type == "cpu" and self.image.dtype == torch.float32

    def strips(self, num_tokens: int) -> list[slice]:
        """Cut tokens into strips that a CPU's core works on while its cache holds them."""
        step = max(1, STRIP_BYTES // self.image[0].nbytes)
        return [slice(start, min(start + step, num_tokens)) for start in range(0, num_tokens, step)]


def prepare_image(
    decoder: MaskDecoder,
    features: Tensor,
    image_pe: Tensor,
    no_mask_embedding: Tensor,
    skip_features: SkipFeatures | None = None,
    dtype: torch.dtype | None = None,
) -> PreparedImage:
    """Compute what all prompts on one image share.

    Args:
        decoder: Whose weights to use.
        features: (1, C, h, w).
        image_pe: (1, C, h, w).
        no_mask_embedding: (1, C), of prompts without a mask.
        skip_features: As `MaskDecoder.forward` takes them.
        dtype: What to keep the image in, and to compute in with it. None: the model's own. Prompts' tokens,
            their scores and the masks' logits are of the model's own in any case.
    """
    dtype = features.dtype if dtype is None else dtype
    image = features[0].flatten(1).T.contiguous() + no_mask_embedding  # (N, C)
    pe = image_pe[0].flatten(1).T.contiguous()
    first = two_way_blocks(decoder)[0]
    to_image, to_tokens = first.cross_attn_token_to_image, first.cross_attn_image_to_token
    query = split_heads(to_tokens.q_proj(image + pe), to_tokens.num_heads)
    stride_4, stride_8 = (None, None) if skip_features is None else skip_features
    return PreparedImage(
        image=image.to(dtype),
        image_pe=pe.to(dtype),
        key=split_heads(to_image.k_proj(image + pe), to_image.num_heads).contiguous().to(dtype),
        value=split_heads(to_image.v_proj(image), to_image.num_heads).contiguous().to(dtype),
        query=(query / query.shape[-1] ** 0.5).transpose(1, 2).contiguous().to(dtype),
        size=(features.shape[2], features.shape[3]),
        skip_8=None if stride_8 is None else pixels_of_tokens(stride_8, levels=1)[0].to(dtype),
        skip_4=None if stride_4 is None else pixels_of_tokens(stride_4, levels=2)[0].to(dtype),
    )


def pixels_of_tokens(x: Tensor, levels: int) -> Tensor:
    """Bring maps (B, C, 2^levels h, 2^levels w) to (B, h, w, 4^levels, C), as upscaled one by one."""
    height, width = (side >> levels for side in x.shape[2:])
    x = x.reshape(*x.shape[:2], height, *[2] * levels, width, *[2] * levels)
    pairs = [axis for i in range(levels) for axis in (3 + i, 4 + levels + i)]  # dy, dx of each level
    return x.permute(0, 2, 3 + levels, *pairs, 1).flatten(3, -2).contiguous()
