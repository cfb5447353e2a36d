"""How many operations a model needs, from its sizes: the floor that a measured time is held against.

Multiplications and additions of matrix products and convolutions, two for each product of a sum; all else is
small beside them. In GFLOP. N image tokens, C channels, d channels of attention to and from the image.
"""

from dataclasses import dataclass

from sam_engine.catalogue import TINY, VIT, Architecture
from sam_engine.modeling.context import DEPTH
from sam_engine.modeling.prompt_maps import NUM_MAPS
from sam_engine.modeling.tiny_encoder import STAGES, TAPS

MASK_TOKENS = 4
PROMPT_TOKENS = 7
"""One for the IoU, four for masks, the point, and one that is not a point."""
USED_TOKENS = 4
"""Of which the last attention is used: without the single mask and the point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderGflops:
    """Of the mask decoder, in GFLOP."""

    released: float
    """For each prompt, by the operations of the released model."""
    once: float
    """For each image, computed once: what prompts share."""
    transformer: float
    """For each prompt, without what is shared, and with the projections of the image absorbed."""
    upscaling: float
    """For each prompt, of three masks over the whole square."""


def encoder_gflops(architecture: Architecture) -> float:
    """Return the work of the image encoder for one image."""
    return {VIT: _vit_encoder, TINY: _tiny_encoder}[architecture.encoder](architecture)


def _vit_encoder(architecture: Architecture) -> float:
    """Return the work of the ViT as released: padded windows included."""
    side = architecture.image_size // 16
    tokens, c, out = side**2, architecture.embed_dim, architecture.prompt_embed_dim
    work = 2.0 * tokens * 16 * 16 * 3 * c
    for block in range(architecture.depth):
        is_global = block in architecture.global_attn_indexes
        size = side if is_global else architecture.window_size
        padded = (-(-side // size) * size) ** 2
        work += 2 * padded * 4 * c * c  # qkv and output projection
        work += 2 * padded * size * size * 2 * c  # scores, and values by scores
        work += 2 * padded * size * 2 * c  # relative positions, along rows and columns
        work += 2 * tokens * 8 * c * c  # perceptron
    return (work + 2 * tokens * out * (c + 9 * out)) / 1e9


def _tiny_encoder(architecture: Architecture) -> float:
    """Return the work of the convolutional encoder."""

    def scaled(channels: int) -> int:
        return max(8, int(channels * architecture.trunk_width + 4) // 8 * 8)

    side, channels, work = architecture.image_size // 2, [scaled(32)], 0.0
    work += side**2 * 9 * 3 * channels[0]
    for expansion, out_channels, repeats, first_stride in STAGES:
        for i in range(repeats):
            hidden = channels[-1] * expansion
            work += side**2 * channels[-1] * hidden if expansion > 1 else 0
            side //= first_stride if i == 0 else 1
            work += side**2 * (9 * hidden + hidden * scaled(out_channels))
            channels.append(scaled(out_channels))
    out = architecture.prompt_embed_dim
    for stride, wanted in ((4, out // 8), (8, out // 4), (16, out), (32, out)):
        work += (architecture.image_size // stride) ** 2 * channels[TAPS[stride]] * wanted
    for stride, coarse, merged, added in ((8, out, out // 2, out // 4), (4, out // 2, out // 4, out // 8)):
        pixels = (architecture.image_size // stride) ** 2
        work += pixels / 4 * coarse * merged
        work += pixels * merged * (channels[TAPS[stride]] + 9 * merged + added)
    cells, wide = (architecture.image_size // 32) ** 2, 2 * out
    work += cells * wide * (channels[TAPS[32]] + out)
    work += DEPTH * 2 * cells * wide * (4 * wide + cells)  # projections and perceptron; scores and values
    return 2 * (work + (architecture.image_size // 16) ** 2 * 9 * out * out) / 1e9


def decoder_gflops(architecture: Architecture) -> DecoderGflops:
    """Return the work of the mask decoder, for prompts of one point."""
    n, c = (architecture.image_size // 16) ** 2, architecture.prompt_embed_dim
    t, heads, d = PROMPT_TOKENS, architecture.decoder_heads, architecture.prompt_embed_dim // 2
    projection, attention = 2 * n * c * d, 2 * 2 * t * n * d
    # Self-attention, the token sides of both cross-attentions, perceptron.
    tokens = 2 * t * (4 * c * c + 2 * t * c + 4 * c * d + 2 * c * architecture.decoder_mlp_dim)
    layer = 2 * projection + attention + 2 * projection + attention + tokens
    final_tokens = 2 * t * 2 * c * d
    convolutions = 2 * n * 4 * c * (c // 4) + 2 * 4 * n * 4 * (c // 4) * (c // 8)
    iou_hidden = architecture.iou_head_hidden_dim
    iou = 2 * iou_hidden * (c + iou_hidden + MASK_TOKENS)
    maps = NUM_MAPS if architecture.family.has_prompt_maps else 0
    image_prior = 2 * n * maps * c
    each_mask = 2 * c * (2 * c + c // 8 + maps) + 2 * 16 * n * (c // 8 + maps)
    overlaps = 2 * (MASK_TOKENS - 1) ** 2 * 16 * n if maps else 0
    absorbed = 2 * heads * n * c  # one product of a token's heads with the image
    return DecoderGflops(
        released=(
            2 * layer
            + image_prior
            + 2 * projection
            + attention
            + final_tokens
            + convolutions
            + iou
            + MASK_TOKENS * each_mask
            + overlaps
        )
        / 1e9,
        once=3 * projection / 1e9,
        transformer=(
            2 * tokens
            + image_prior
            + attention  # layer 0, tokens to image: keys and values are shared
            + attention / 2  # layer 0, image to tokens: queries are shared
            + t * absorbed  # its output
            + 4 * t * absorbed  # layer 1
            + 2 * USED_TOKENS * absorbed
            + final_tokens
            + iou
        )
        / 1e9,
        upscaling=(convolutions + (MASK_TOKENS - 1) * each_mask + overlaps) / 1e9,
    )


def floor_gflops(architecture: Architecture, num_prompts: int, image_fraction: float) -> tuple[float, float]:
    """Return the least work of one image without crops: that of the encoder and that of the decoder.

    Args:
        architecture: The model's sizes.
        num_prompts: Points on the image.
        image_fraction: Share of the square input that is image and not padding; only there are masks needed.
    """
    decoder = decoder_gflops(architecture)
    each = decoder.transformer + decoder.upscaling * image_fraction
    return encoder_gflops(architecture), decoder.once + num_prompts * each
