"""Our network and that of ``segment_anything`` 1.0 compute the same, with every tensor randomised.

Default initialisation hides mistakes: positional tables start at zero and LayerNorm at the identity. In
float64 the two must agree to 1e-9 of the largest value; in float32 ours may be no further from the float64
result than the reference is.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import ARCHITECTURES, Architecture
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.segmenter import ImageEmbedding
from tests.helpers.reference_models import SMALL, randomise
from tools.reference import build_reference

pytestmark = pytest.mark.reference

FLOAT64_TOLERANCE = 1e-9
FLOAT32_SLACK = 2.5
"""Allowed ratio of the two root-mean-square rounding errors; 0.8 to 1.3 was measured over 64 prompts, and 2.2
over the scores of boxes on an Intel Xeon with AVX-512."""
FLOAT32_FLOOR = 32 * torch.finfo(torch.float32).eps
"""Error, relative to the largest output, that passes however small the reference's is: the three predicted
IoUs of one prompt can be rounded luckily (to 8 eps, ours to 23, on an Intel Xeon)."""


def to_double(reference: Any) -> Any:
    """Return a float64 copy of the reference.

    It casts normalised coordinates to float32 before the Fourier features; the coordinates used here are
    exact in float32, so that widening them again loses nothing.
    """
    double = deepcopy(reference).double()
    layer = double.prompt_encoder.pe_layer
    encode = layer._pe_encoding
    layer._pe_encoding = lambda coords: encode(coords.double())
    return double


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both implementations with the same random weights, in both precisions."""

    ours: dict[torch.dtype, Sam]
    reference: dict[torch.dtype, Any]


def make_pair(package: ModuleType, architecture: Architecture) -> Pair:
    """Build both models; loading checks keys and shapes both ways."""
    ours, reference = build_architecture(architecture), build_reference(package, architecture)
    randomise(reference, seed=0)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return Pair(
        ours={torch.float32: ours, torch.float64: deepcopy(ours).double()},
        reference={torch.float32: reference, torch.float64: to_double(reference)},
    )


@pytest.fixture(scope="module")
def small(segment_anything: ModuleType) -> Pair:
    """A reduced configuration."""
    return make_pair(segment_anything, SMALL)


@pytest.fixture(scope="module")
def vit_b_256(segment_anything: ModuleType) -> Pair:
    """All of vit_b, for 256 px: 16 tokens a side, padded to 28 in windows."""
    return make_pair(segment_anything, replace(ARCHITECTURES["vit_b"], image_size=256))


def assert_same(pair: Pair, run: Callable[[Any], Any]) -> None:
    """Check every output of ``run`` on our model against the reference, in float64 and in float32."""
    with torch.no_grad():
        exact = run(pair.reference[torch.float64])
        ours = run(pair.ours[torch.float64])
        rounded = run(pair.reference[torch.float32])
        ours_rounded = run(pair.ours[torch.float32])
    for x, y, x32, y32 in zip(exact, ours, rounded, ours_rounded, strict=True):
        assert y.shape == x.shape
        assert y32.dtype == x32.dtype == torch.float32
        assert (y - x).abs().max() <= FLOAT64_TOLERANCE * x.abs().max()
        floor = FLOAT32_FLOOR * x.abs().max().item()
        assert rms(y32 - x) <= max(FLOAT32_SLACK * rms(x32 - x), floor)


def rms(x: Tensor) -> float:
    """Return the root mean square."""
    return x.double().square().mean().sqrt().item()


def random_image(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Return a (3, H, W) image of integers in [0, 255], as float32."""
    return torch.randint(256, (3, *size), generator=torch.Generator().manual_seed(seed)).float()


def prompts(kinds: str, image_size: int, num_prompts: int = 24) -> dict[str, Tensor]:
    """Return prompts as ``Sam.forward`` takes them, with coordinates exact in float32."""
    generator = torch.Generator().manual_seed(1)

    def pixels(*shape: int) -> Tensor:
        return torch.randint(image_size, shape, generator=generator).float()

    made = {}
    if "points" in kinds:
        num_points = 4 if "several" in kinds else 1
        made["point_coords"] = pixels(num_prompts, num_points, 2)
        made["point_labels"] = torch.tensor([[1, 0, -1, 1]] * num_prompts)[:, :num_points]
    if "boxes" in kinds:
        made["boxes"] = pixels(num_prompts, 2, 2).sort(dim=1).values.flatten(1)
    if "masks" in kinds:
        side = image_size // 4
        made["mask_inputs"] = 4 * torch.randn(num_prompts, 1, side, side, generator=generator)
    return made


def decode(model: Any, kinds: str, multimask_output: bool) -> tuple[Tensor, Tensor]:
    """Run either implementation's prompt encoder and mask decoder on a random embedding."""
    encoder = model.prompt_encoder
    dtype = model.pixel_mean.dtype
    made = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in prompts(kinds, encoder.input_image_size[0]).items()
    }
    points = (made["point_coords"], made["point_labels"]) if "point_coords" in made else None
    sparse, dense = encoder(points=points, boxes=made.get("boxes"), masks=made.get("mask_inputs"))
    height, width = encoder.image_embedding_size
    embedding = torch.randn(1, encoder.embed_dim, height, width, generator=torch.Generator().manual_seed(2))
    masks, iou = model.mask_decoder(
        image_embeddings=embedding.to(dtype),
        image_pe=encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask_output,
    )
    return masks, iou


KINDS = [
    "one of points",
    "several points",
    "boxes",
    "points and boxes",
    "masks",
    "points and masks",
    "several points, boxes and masks",
    "no prompt",
]


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("multimask_output", [True, False])
def test_masks_and_iou_are_the_references(small: Pair, kinds: str, multimask_output: bool) -> None:
    """Every kind of prompt and combination gives the reference's low-resolution logits and predicted IoU."""
    assert_same(small, lambda model: decode(model, kinds, multimask_output))


@pytest.mark.slow
@pytest.mark.parametrize("kinds", ["one of points", "several points, boxes and masks"])
def test_vit_b_masks_and_iou_are_the_references(vit_b_256: Pair, kinds: str) -> None:
    """So does the decoder of the released sizes."""
    assert_same(vit_b_256, lambda model: decode(model, kinds, True))


@pytest.mark.parametrize("kinds", ["several points", "boxes", "masks"])
def test_prompt_embeddings_are_the_references(small: Pair, kinds: str) -> None:
    """Sparse and dense prompt embeddings and the dense positional encoding agree by themselves."""

    def run(model: Any) -> tuple[Tensor, ...]:
        made = {k: v.to(model.pixel_mean.dtype) for k, v in prompts(kinds, 256).items()}
        points = (made["point_coords"], made["point_labels"]) if "point_coords" in made else None
        sparse, dense = model.prompt_encoder(points, made.get("boxes"), made.get("mask_inputs"))
        return (sparse, dense, model.prompt_encoder.get_dense_pe())[0 if sparse.numel() else 1 :]

    assert_same(small, run)


def test_small_image_embedding_is_the_references(small: Pair) -> None:
    """Window padding, global attention and relative positions agree, for two images at once."""
    images = torch.stack([random_image((256, 256), seed) for seed in range(2)]) / 64 - 2

    assert_same(small, lambda model: [model.image_encoder(images.to(model.pixel_mean.dtype))])


@pytest.mark.slow
def test_vit_b_image_embedding_is_the_references(vit_b_256: Pair) -> None:
    """All 12 blocks of vit_b agree."""
    image = random_image((256, 256))[None] / 64 - 2

    assert_same(vit_b_256, lambda model: [model.image_encoder(image.to(model.pixel_mean.dtype))])


def test_blocks_at_1024_px_are_the_references(segment_anything: ModuleType) -> None:
    """A windowed and a global block agree at the real resolution, with a twelfth of the heads of vit_b.

    64 tokens a side are padded to 70, and the tables of relative positions have 27 and 127 rows.
    """
    architecture = replace(
        ARCHITECTURES["vit_b"], depth=2, global_attn_indexes=(1,), embed_dim=64, num_heads=1
    )
    pair = make_pair(segment_anything, architecture)
    image = random_image((1024, 1024))[None].double() / 64 - 2
    with torch.no_grad():
        ours = pair.ours[torch.float64].image_encoder(image)
        expected = pair.reference[torch.float64].image_encoder(image)

    assert (ours - expected).abs().max() <= FLOAT64_TOLERANCE * expected.abs().max()


@pytest.mark.slow
def test_vit_b_at_full_size_is_the_references(segment_anything: ModuleType) -> None:
    """The whole of vit_b at 1024 px: embedding, logits and predicted IoU."""
    pair = make_pair(segment_anything, ARCHITECTURES["vit_b"])
    image = random_image((1024, 1024))[None] / 64 - 2

    assert_same(pair, lambda model: [model.image_encoder(image.to(model.pixel_mean.dtype))])
    assert_same(pair, lambda model: decode(model, "several points", True))


@pytest.mark.parametrize(
    ("name", "num_tensors", "num_values"),
    [("vit_b", 314, 93_735_728), ("vit_l", 482, 312_343_088), ("vit_h", 594, 641_090_864)],
)
def test_keys_and_shapes_are_those_of_the_releases(
    segment_anything: ModuleType, name: str, num_tensors: int, num_values: int
) -> None:
    """The state dict of each released size has the reference's keys, in its order, with its shapes."""
    with torch.device("meta"):
        ours = build_architecture(ARCHITECTURES[name]).state_dict()
        expected = segment_anything.sam_model_registry[name]().state_dict()

    assert [(k, v.shape) for k, v in ours.items()] == [(k, v.shape) for k, v in expected.items()]
    assert (len(ours), sum(v.numel() for v in ours.values())) == (num_tensors, num_values)


@pytest.mark.parametrize("multimask_output", [True, False])
def test_forward_on_a_batch_is_the_references(small: Pair, multimask_output: bool) -> None:
    """`Sam.forward` takes the reference's records, of several sizes and prompts, and returns its keys."""
    sizes = [
        ((256, 192), (400, 300), "one of points"),
        ((100, 256), (50, 128), "boxes"),
        ((256, 256), (256, 256), ""),
    ]

    def run(model: Any) -> list[Tensor]:
        dtype = model.pixel_mean.dtype
        batch = [
            {"image": random_image(size).to(dtype), "original_size": original}
            | {k: v.to(dtype) if v.is_floating_point() else v for k, v in prompts(kinds, 256).items()}
            for size, original, kinds in sizes
        ]
        outputs = model(batch, multimask_output)
        assert [list(output) for output in outputs] == [["masks", "iou_predictions", "low_res_logits"]] * 3
        assert [output["masks"].dtype for output in outputs] == [torch.bool] * 3
        assert [output["masks"].shape[-2:] for output in outputs] == [original for _, original, _ in sizes]
        return [output[key] for output in outputs for key in ("low_res_logits", "iou_predictions")]

    assert_same(small, run)


def test_forward_thresholds_the_same_pixels(small: Pair) -> None:
    """The masks of `Sam.forward` in float64 are the reference's, pixel for pixel."""
    image = random_image((256, 192)).double()
    batch = [{"image": image, "original_size": (400, 300)} | prompts("one of points", 256)]
    ours = small.ours[torch.float64](batch, True)[0]["masks"]
    expected = small.reference[torch.float64](batch, True)[0]["masks"]

    assert torch.equal(ours, expected)
    assert 0 < expected.sum() < expected.numel()


@pytest.mark.parametrize("size", [(256, 256), (256, 171), (3, 256)])
def test_preprocess_is_the_references(small: Pair, size: tuple[int, int]) -> None:
    """Normalisation comes before padding, bit for bit, on uint8 input."""
    image = random_image(size).to(torch.uint8)

    assert torch.equal(
        small.ours[torch.float32].preprocess(image), small.reference[torch.float32].preprocess(image)
    )


@pytest.mark.parametrize(
    ("input_size", "original_size"),
    [((256, 256), (256, 256)), ((256, 171), (480, 320)), ((171, 256), (20, 30)), ((1, 256), (1, 700))],
)
def test_postprocess_masks_is_the_references(
    small: Pair, input_size: tuple[int, int], original_size: tuple[int, int]
) -> None:
    """Both bilinear steps and the crop between them are bit for bit the same."""
    logits = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    ours = small.ours[torch.float32].postprocess_masks(logits, input_size, original_size)
    expected = small.reference[torch.float32].postprocess_masks(logits, input_size, original_size)

    assert torch.equal(ours, expected)


def test_one_mask_prompt_serves_several_points(small: Pair) -> None:
    """A single mask input is shared by all points, as the reference's broadcasting does."""
    made = {k: v.double() for k, v in prompts("one of points", 256, num_prompts=5).items()}
    mask = prompts("masks", 256, num_prompts=1)["mask_inputs"].double()
    features = torch.randn(1, 64, 16, 16, generator=torch.Generator().manual_seed(4)).double()
    ours, reference = small.ours[torch.float64], small.reference[torch.float64]
    with torch.no_grad():
        embedding = ImageEmbedding(features=features, input_size=(256, 256), original_size=(256, 256))
        logits, iou = ours.decode(embedding, **made, mask_input=mask)
        sparse, dense = reference.prompt_encoder((made["point_coords"], made["point_labels"]), None, mask)
        expected, expected_iou = reference.mask_decoder(
            features, reference.prompt_encoder.get_dense_pe(), sparse, dense, True
        )

    assert torch.allclose(logits, expected, rtol=0, atol=FLOAT64_TOLERANCE * expected.abs().max().item())
    assert torch.allclose(iou, expected_iou, rtol=0, atol=FLOAT64_TOLERANCE * expected_iou.abs().max().item())
