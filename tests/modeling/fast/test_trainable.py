"""The decoder that is trained computes what `MaskDecoder.predict_masks` computes, gradients included."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sam_engine.build_sam import build_architecture
from sam_engine.modeling.fast.trainable import decode_batch
from tests.helpers.reference_models import SMALL, SMALL_TINY, randomise

NUM_IMAGES = 2
NUM_PROMPTS = 6


@pytest.mark.parametrize("model", ["tiny", "vit"])
@pytest.mark.parametrize("has_masks", [False, True])
def test_decode_batch_is_the_slow_twin(model: str, has_masks: bool):
    """Logits, predicted IoU and the gradients of all weights and features agree in float64."""
    sam = build_architecture(SMALL_TINY if model == "tiny" else replace(SMALL, depth=1))
    randomise(sam, seed=0)
    sam = sam.double()
    decoder, encoder = sam.mask_decoder, sam.prompt_encoder
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    channels, (height, width) = encoder.embed_dim, encoder.image_embedding_size
    shapes = [(channels, height, width)]
    if model == "tiny":
        shapes += [(channels // 8, 4 * height, 4 * width), (channels // 4, 2 * height, 2 * width)]
    maps = [noise(NUM_IMAGES, *shape).requires_grad_() for shape in shapes]
    points = sam.image_size * noise(NUM_PROMPTS, 2, 2).abs(), torch.tensor([[1, 0], [1, -1]] * 3)
    masks = noise(NUM_PROMPTS, 1, 4 * height, 4 * width) if has_masks else None
    pe, places = encoder.get_dense_pe(), encoder.places(points, None)

    def gradients(logits: Tensor, iou: Tensor) -> list[Tensor]:
        inputs = [*maps, *decoder.parameters()]
        return list(torch.autograd.grad(logits.sin().sum() + iou.sin().sum(), inputs, materialize_grads=True))

    sparse, dense = encoder(points, None, masks)
    repeated = [x.repeat_interleave(NUM_PROMPTS // NUM_IMAGES, dim=0) for x in maps]
    skips = (repeated[1], repeated[2]) if model == "tiny" else None
    expected = decoder.predict_masks(repeated[0], pe, sparse, dense, skips, places)
    expected_gradients = gradients(*expected)
    shared_skips = (maps[1], maps[2]) if model == "tiny" else None
    dense = dense if has_masks else dense[:1]
    decoded = decode_batch(decoder, maps[0], pe, sparse, dense, shared_skips, places)

    for ours, theirs in zip((*decoded, *gradients(*decoded)), (*expected, *expected_gradients), strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-9 * max(1, theirs.abs().max())
