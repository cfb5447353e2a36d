"""Half precision of the image, in the decoder: what is kept, and what becomes of masks."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sam_engine.build_sam import build_architecture, build_tiny
from sam_engine.catalogue import ARCHITECTURES
from sam_engine.errors import ConfigError
from sam_engine.modeling.fast.prepared_image import prepare_image
from sam_engine.modeling.precision import image_dtype
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.segmenter import ImageEmbedding
from sam_engine.ops.points import build_point_grid
from tests.helpers.reference_models import SMALL


def smooth_features(sam: Sam) -> ImageEmbedding:
    """Return an embedding with features of the size that the encoders' last norm gives."""
    generator = torch.Generator().manual_seed(1)
    channels, (height, width) = sam.prompt_encoder.embed_dim, sam.prompt_encoder.image_embedding_size
    size = (sam.image_size, sam.image_size)
    coarse = torch.randn(1, channels, height // 4, width // 4, generator=generator)
    features = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return ImageEmbedding(features=features, input_size=size, original_size=size)


def grid_prompts(sam: Sam, side: int) -> dict[str, Tensor]:
    points = torch.from_numpy(build_point_grid(side) * sam.image_size).float()
    return {"point_coords": points[:, None], "point_labels": torch.ones(len(points), 1)}


def drawn_image() -> Tensor:
    """Return (H, W, 3) uint8: discs of several colours and sizes on a gradient."""
    y, x = torch.meshgrid(torch.arange(192.0), torch.arange(256.0), indexing="ij")
    image = torch.stack([60 + x / 4, 90 + y / 4, 120 - x / 8], dim=-1)
    for centre, radius, colour in (((50, 60), 28, (220, 60, 50)), ((120, 180), 40, (40, 160, 90))):
        inside = (y - centre[0]).square() + (x - centre[1]).square() < radius**2
        image[inside] = torch.tensor(colour).float()
    return image.to(torch.uint8)


def in_half(sam: Sam, embedding: ImageEmbedding) -> ImageEmbedding:
    """Return the embedding prepared as on a GPU in half precision."""
    prepared = prepare_image(
        sam.mask_decoder,
        embedding.features,
        sam.prompt_encoder.get_dense_pe(),
        sam.prompt_encoder.no_mask_embed.weight,
        embedding.skip_features,
        torch.float16,
    )
    return replace(embedding, prepared=prepared)


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("fp16", "cuda", torch.float16),
        ("bf16", "cuda", torch.float16),
        ("tf32", "cuda", None),
        ("fp32", "cuda", None),
        ("fp16", "cpu", None),
        ("bf16", "cpu", None),
    ],
)
def test_what_the_decoder_keeps_images_in(precision: str, device: str, expected: torch.dtype | None) -> None:
    """fp16 with both half precisions, where that is fast."""
    assert image_dtype(precision, torch.device(device)) is expected


def test_prompts_and_masks_stay_in_float32() -> None:
    """The image's tokens alone are half; tokens of prompts, scores and logits are not."""
    sam = build_architecture(SMALL)
    with torch.no_grad():
        embedding = in_half(sam, smooth_features(sam))
        decoded = sam.decode_prompts(embedding, **grid_prompts(sam, 2))
        logits, scores = sam.upscale_masks(embedding, decoded)

    assert embedding.features.dtype == torch.float32
    assert decoded.image.dtype == torch.float16
    assert {x.dtype for x in (decoded.iou_predictions, decoded.mask_tokens, logits, scores)} == {
        torch.float32
    }


def share_alike(logits: Tensor, expected: Tensor, chosen: Tensor) -> float:
    """Return the share of chosen masks whose IoU with the expected ones is at least 0.99."""
    ours, theirs = (x.flatten(0, 1)[chosen] > 0 for x in (logits, expected))
    iou = (ours & theirs).sum(dim=(1, 2)) / (ours | theirs).sum(dim=(1, 2)).clamp(min=1)
    return float((iou >= 0.99).float().mean())


def test_masks_of_tiny_in_half_precision() -> None:
    """Of the masks of a drawing, decoded in half precision, all but one in 32 are alike, and all scores are.

    Which one is not depends on the processor: none, or one on some with AVX-512.
    """
    sam, image = build_tiny(), drawn_image().numpy()
    [embedding] = sam.encode([image])
    prompts = grid_prompts(sam, 4)
    with torch.no_grad():
        expected, scores = sam.decode(embedding, **prompts)
        logits, half_scores = sam.decode(in_half(sam, embedding), **prompts)
    chosen = (expected > 0).flatten(0, 1).sum(dim=(1, 2)) > 100

    assert chosen.sum() > 20
    assert share_alike(logits, expected, chosen) >= 31 / 32
    assert (half_scores - scores).abs().max() < 0.003  # 0.0012 was measured: pixels that flip are counted


def test_masks_of_the_released_decoder_in_half_precision() -> None:
    """The same with a decoder of vit_b's sizes that was not trained, over a smaller image."""
    torch.manual_seed(0)
    sam = build_architecture(
        replace(ARCHITECTURES["vit_b"], image_size=256, depth=1, embed_dim=32, num_heads=1)
    )
    prompts, embedding = grid_prompts(sam, 3), smooth_features(sam)
    with torch.no_grad():
        expected, scores = sam.decode(embedding, **prompts)
        logits, half_scores = sam.decode(in_half(sam, embedding), **prompts)
    middle = expected.flatten(2).median(dim=2).values[..., None, None]

    everything = torch.ones(scores.numel(), dtype=torch.bool)
    assert share_alike(logits - middle, expected - middle, everything) >= 0.99
    assert (half_scores - scores).abs().max() < 0.001 * scores.abs().max()


@pytest.mark.parametrize(
    "cast",
    [
        lambda sam: sam.to(torch.bfloat16),
        lambda sam: sam.to(device="cpu", dtype=torch.float16),
        lambda sam: sam.half(),
        lambda sam: sam.bfloat16(),
    ],
)
def test_a_whole_model_of_half_precision_is_refused(cast: Callable[[Sam], Sam]) -> None:
    """The message names the setting that does what is wanted; moving and widening go on."""
    sam = build_architecture(SMALL)

    with pytest.raises(ConfigError, match=r"sam\.precision = '(fp16|bf16)'"):
        cast(sam)
    assert sam.to("cpu").double().pixel_mean.dtype == torch.float64
