"""The fast decoder computes what `MaskDecoder.forward`, its slow twin, computes."""

import functools
from copy import deepcopy
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import ARCHITECTURES, Architecture
from sam_engine.modeling.fast import decoder, prepared_image
from sam_engine.modeling.fast.decoder import decode_prompts
from sam_engine.modeling.fast.prepared_image import prepare_image
from sam_engine.modeling.fast.upscaling import upscale_masks
from sam_engine.modeling.mask_decoder import MaskDecoder
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.segmenter import ImageEmbedding
from sam_engine.modeling.transformer import TwoWayTransformer
from tests.helpers.reference_models import SMALL, SMALL_TINY, randomise

TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-3}
"""Of the largest value. Random weights amplify rounding errors: up to 2e-12 and 3e-4 were measured."""
FLOAT32_SLACK = 2.0
"""Allowed ratio of the two decoders' errors against float64; 0.8 to 1.3 was measured."""

TINY = replace(SMALL_TINY, image_size=128, prompt_embed_dim=64)
MODELS = {"tiny, with skip features": TINY, "vit": replace(SMALL, depth=1), "vit_b's decoder": replace(
    ARCHITECTURES["vit_b"], image_size=128, depth=1, embed_dim=32, num_heads=1
)}  # fmt: skip
both_ways = pytest.mark.parametrize("dtype", TOLERANCES, ids=["operations", "loops"])
"""On a CPU compiled loops take float32, and torch's operations, as on any device, the rest."""
PROMPTS = ["one point", "four points", "boxes", "four points and boxes", "no prompt"]


def make_sam(architecture: Architecture, dtype: torch.dtype = torch.float64) -> Sam:
    """Return a model with every tensor randomised."""
    return deepcopy(random_sam(architecture)).to(dtype)


@functools.cache
def random_sam(architecture: Architecture) -> Sam:
    """Draw the tensors, which takes longer than most tests."""
    sam = build_architecture(architecture)
    randomise(sam, seed=0)
    return sam


def make_embedding(sam: Sam, input_size: tuple[int, int] | None = None) -> ImageEmbedding:
    """Return random features, with skip features for tiny."""
    generator = torch.Generator().manual_seed(1)
    channels, (height, width) = sam.prompt_encoder.embed_dim, sam.prompt_encoder.image_embedding_size

    def noise(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator).to(sam.pixel_mean.dtype)

    has_skips = hasattr(sam.image_encoder, "skip_4")
    skips = noise(channels // 8, 4 * height, 4 * width), noise(channels // 4, 2 * height, 2 * width)
    size = input_size or (sam.image_size, sam.image_size)
    return ImageEmbedding(
        features=noise(channels, height, width),
        skip_features=skips if has_skips else None,
        input_size=size,
        original_size=size,
    )


def make_prompts(kinds: str, image_size: int, num_prompts: int = 9) -> dict[str, Tensor]:
    """Return prompts as `Sam.decode` takes them."""
    generator = torch.Generator().manual_seed(2)
    made = {}
    if "point" in kinds:
        num_points = 4 if "four" in kinds else 1
        shape = (num_prompts, num_points, 2)
        made["point_coords"] = torch.randint(image_size, shape, generator=generator).float()
        made["point_labels"] = torch.tensor([[1, 0, -1, 1]] * num_prompts)[:, :num_points]
    if "boxes" in kinds:
        corners = torch.randint(image_size, (num_prompts, 2, 2), generator=generator).float()
        made["boxes"] = corners.sort(dim=1).values.flatten(1)
    return made


def decode_slowly(
    sam: Sam, embedding: ImageEmbedding, multimask_output: bool, **made: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the slow twin."""
    points = (made["point_coords"], made["point_labels"]) if "point_coords" in made else None
    sparse, dense = sam.prompt_encoder(points, made.get("boxes"), None)
    logits, iou = sam.mask_decoder(
        embedding.features,
        sam.prompt_encoder.get_dense_pe(),
        sparse,
        dense,
        multimask_output,
        embedding.skip_features,
        sam.prompt_encoder.places(points, made.get("boxes")),
    )
    return logits, iou


def assert_close(ours: Tensor, expected: Tensor, rounding: Tensor | None = None) -> None:
    """Check equality up to rounding, or to twice what rounding is known to have cost the expected values.

    The weights of vit_b's decoder cost them 5e-3 on a processor with AVX-512; the twins differed by 1.6e-3.
    """
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    if expected.numel():
        allowed = TOLERANCES[expected.dtype] * expected.abs().max()
        if rounding is not None and expected.dtype == torch.float32:
            allowed = torch.maximum(allowed, 2 * rounding.float())
        assert (ours - expected).abs().max() <= allowed


@both_ways
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kinds", PROMPTS)
@pytest.mark.parametrize("multimask_output", [True, False])
@torch.no_grad()
def test_decode_is_the_slow_twin(model: str, kinds: str, multimask_output: bool, dtype: torch.dtype) -> None:
    """For every model and kind of prompt, logits and predicted IoU agree."""
    sam = make_sam(MODELS[model], dtype)
    embedding, made = make_embedding(sam), make_prompts(kinds, sam.image_size)
    expected = decode_slowly(sam, embedding, multimask_output, **made)
    exact = make_sam(MODELS[model])
    truth = decode_slowly(exact, make_embedding(exact), multimask_output, **made)
    found = sam.decode(embedding, multimask_output=multimask_output, **made)

    for ours, slow, true in zip(found, expected, truth, strict=True):
        assert_close(ours, slow, rounding=(slow - true).abs().max() if slow.numel() else None)
    assert found[0].is_contiguous()


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_rounding_is_that_of_the_slow_twin(model: str) -> None:
    """In float32 the fast decoder is no further from the truth than the slow one."""
    exact, rounded = make_sam(MODELS[model]), make_sam(MODELS[model], torch.float32)
    made = make_prompts("one point", exact.image_size, num_prompts=24)
    truth = decode_slowly(exact, make_embedding(exact), True, **made)
    embedding = make_embedding(rounded)
    slow, fast = decode_slowly(rounded, embedding, True, **made), rounded.decode(embedding, **made)

    for x, slow32, fast32 in zip(truth, slow, fast, strict=True):
        assert fast32.dtype == torch.float32
        fast_error, slow_error = ((y - x).square().mean().sqrt() for y in (fast32, slow32))
        assert fast_error <= FLOAT32_SLACK * slow_error


@both_ways
@torch.no_grad()
def test_any_depth_is_decoded(dtype: torch.dtype) -> None:
    """A transformer of three layers agrees too: nothing is bound to the two of the releases."""
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=3, embedding_dim=32, num_heads=4, mlp_dim=48)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer).to(dtype)
    randomise(decoder, seed=0)
    features, pe = torch.randn(2, 1, 32, 6, 5).to(dtype)
    sparse, no_mask = torch.randn(7, 2, 32).to(dtype), torch.randn(1, 32).to(dtype)
    expected_logits, expected_iou = decoder(
        features, pe, sparse, no_mask[:, :, None, None].expand(7, -1, 6, 5), True
    )
    prepared = prepare_image(decoder, features, pe, no_mask)
    decoded = decode_prompts(decoder, prepared, sparse, True)

    logits, iou = upscale_masks(decoder, prepared, decoded, torch.arange(7))

    assert_close(iou, expected_iou)
    assert_close(logits, expected_logits)


@both_ways
@pytest.mark.parametrize("chosen", [[5, 2], [0, 0, 8], [], list(range(9))])
@torch.no_grad()
def test_only_chosen_prompts_are_upscaled(chosen: list[int], dtype: torch.dtype) -> None:
    """Any selection in any order gives those rows of all logits and scores."""
    sam = make_sam(TINY, dtype)
    made = make_prompts("one point", sam.image_size)
    embedding = sam.prepare(make_embedding(sam))
    expected, expected_iou = sam.decode(embedding, **made)
    decoded = sam.decode_prompts(embedding, **made)
    logits, iou = sam.upscale_masks(embedding, decoded, torch.tensor(chosen).long())

    assert_close(logits, expected[chosen])
    assert_close(iou, expected_iou[chosen])
    if dtype == torch.float64:
        assert torch.allclose(logits, expected[chosen], rtol=0, atol=1e-10)


@both_ways
@pytest.mark.parametrize(
    "input_size", [(128, 85), (85, 128), (128, 128), (1, 128), (128, 15), (14, 128), (128, 16), (62, 128)]
)
@torch.no_grad()
def test_padding_can_be_skipped(input_size: tuple[int, int], dtype: torch.dtype) -> None:
    """Logits that the image does not depend on are left 0, and the masks at its size stay the same."""
    sam = make_sam(TINY, dtype)
    embedding = sam.prepare(make_embedding(sam, input_size))
    decoded = sam.decode_prompts(embedding, **make_prompts("one point", sam.image_size, num_prompts=2))
    full, _ = sam.upscale_masks(embedding, decoded, torch.arange(2))
    cut, _ = sam.upscale_masks(embedding, decoded, torch.arange(2), skip_padding=True)
    sizes = (input_size, (3 * input_size[0], 2 * input_size[1]))

    assert_close(sam.postprocess_masks(cut, *sizes), sam.postprocess_masks(full, *sizes))
    assert (cut == 0).any() == (min(input_size) <= 109)


@torch.no_grad()
def test_no_more_padding_than_needed_is_upscaled() -> None:
    """One row of tokens less would change the image's masks."""
    sam = make_sam(TINY)
    for height in range(1, 129):
        embedding = make_embedding(sam, (height, 128))
        rows, columns = sam._tokens_of_image(embedding)
        logits = torch.zeros(1, 1, 32, 32)
        logits[:, :, 4 * rows :] = 1
        assert not sam.postprocess_masks(logits, (height, 128), (height, 128)).any()
        logits[:, :, 4 * rows - 4 :] = 1
        assert sam.postprocess_masks(logits, (height, 128), (height, 128)).any()
        assert columns == 8


@pytest.mark.parametrize(
    ("module", "limit"),
    [(prepared_image, "STRIP_BYTES"), (decoder, "CPU_IMAGES_BYTES")],
    ids=["strips", "images"],
)
@pytest.mark.parametrize("iou_thresh", [None, 0.0])
@pytest.mark.parametrize("num_threads", [1, 3])
@torch.no_grad()
def test_blocks_do_not_matter(
    module: ModuleType,
    limit: str,
    iou_thresh: float | None,
    num_threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prompts, and the tokens of their images, worked on one by one or all at once give the same."""
    sam = make_sam(TINY, torch.float32)
    embedding, made = make_embedding(sam, (128, 85)), make_prompts("one point", sam.image_size)
    expected = sam.decode(embedding, iou_thresh=iou_thresh, **made)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for num_bytes in (1, 2560, 2**30):  # of 64 tokens of 256 bytes: one, ten, all
            monkeypatch.setattr(module, limit, num_bytes)
            for ours, theirs in zip(
                sam.decode(embedding, iou_thresh=iou_thresh, **made), expected, strict=True
            ):
                assert_close(ours, theirs)
    finally:
        torch.set_num_threads(before)


@both_ways
@torch.no_grad()
def test_memory_for_images_is_used_again(dtype: torch.dtype) -> None:
    """Given memory, whatever it holds, is where the images go; the result is the same."""
    sam = make_sam(TINY, dtype)
    embedding, made = sam.prepare(make_embedding(sam)), make_prompts("one point", sam.image_size)
    expected = sam.decode_prompts(embedding, **made)
    memory = torch.full((12, *expected.image.shape[1:]), torch.nan, dtype=dtype)
    decoded = sam.decode_prompts(embedding, images=memory, **made)

    assert decoded.image.data_ptr() == memory.data_ptr()
    assert torch.equal(decoded.image, expected.image)
    assert torch.equal(decoded.iou_predictions, expected.iou_predictions)


@both_ways
@torch.no_grad()
def test_decoded_prompts_are_not_overwritten(dtype: torch.dtype) -> None:
    """Decoding another batch leaves an earlier one as it was."""
    sam = make_sam(TINY, dtype)
    embedding = sam.prepare(make_embedding(sam))
    made = make_prompts("one point", sam.image_size)
    first = sam.decode_prompts(embedding, **made)
    before, _ = sam.upscale_masks(embedding, first, torch.arange(9))
    sam.decode_prompts(embedding, **{**made, "point_labels": 1 - made["point_labels"]})

    assert torch.equal(sam.upscale_masks(embedding, first, torch.arange(9))[0], before)


@both_ways
@torch.no_grad()
def test_no_prompts_give_no_masks(dtype: torch.dtype) -> None:
    """An empty batch of points is decoded to nothing."""
    sam = make_sam(TINY, dtype)
    logits, iou = sam.decode(
        make_embedding(sam), point_coords=torch.zeros(0, 1, 2), point_labels=torch.zeros(0, 1)
    )

    assert (logits.shape, iou.shape) == ((0, 3, 32, 32), (0, 3))


@torch.no_grad()
def test_changed_weights_take_effect() -> None:
    """Nothing derived from weights is kept in the model: decode follows training, loading and casting."""
    sam = make_sam(TINY)
    embedding, made = make_embedding(sam), make_prompts("one point", sam.image_size)
    before, _ = sam.decode(embedding, **made)
    for parameter in sam.mask_decoder.parameters():
        parameter.mul_(1.1)
    expected, _ = decode_slowly(sam, embedding, True, **made)
    after, _ = sam.decode(embedding, **made)

    assert_close(after, expected)
    assert not torch.allclose(after, before)


def test_with_gradients_the_slow_twin_is_used() -> None:
    """Training sees the differentiable decoder, in which every weight has a gradient."""
    sam = make_sam(TINY)
    embedding, made = make_embedding(sam), make_prompts("one point", sam.image_size)
    logits, iou = sam.decode(embedding, **made)
    (logits.sum() + iou.sum()).backward()

    assert torch.equal(logits, decode_slowly(sam, embedding, True, **made)[0])
    assert sam.mask_decoder.transformer.layers.get_parameter("0.self_attn.q_proj.weight").grad.any()


@torch.no_grad()
def test_mask_prompts_use_the_slow_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask prompt makes another image for each prompt, so that nothing can be shared."""
    sam = make_sam(TINY)
    masks = torch.randn(9, 1, 32, 32, generator=torch.Generator().manual_seed(3)).double()
    made: dict[str, Any] = make_prompts("one point", sam.image_size)
    points = (made["point_coords"], made["point_labels"])
    embedding = make_embedding(sam)
    sparse, dense = sam.prompt_encoder(points, None, masks)
    expected, _ = sam.mask_decoder(
        embedding.features,
        sam.prompt_encoder.get_dense_pe(),
        sparse,
        dense,
        True,
        embedding.skip_features,
        sam.prompt_encoder.places(points, None),
    )

    assert torch.equal(sam.decode(sam.prepare(embedding), mask_input=masks, **made)[0], expected)


def test_points_without_labels_are_refused() -> None:
    """Both ways of decoding say what is missing."""
    sam = make_sam(TINY)
    for enabled in (True, False):
        with (
            torch.set_grad_enabled(enabled),
            pytest.raises(ValueError, match="point_coords need point_labels"),
        ):
            sam.decode(make_embedding(sam), point_coords=torch.zeros(1, 1, 2))
