"""The convolutional encoder and its skip features."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sam_engine.modeling.segmenter import ImageEmbedding
from sam_engine.modeling.tiny_encoder import ConvReLU6, TinyEncoder
from sam_engine.predictor import SamPredictor
from tests.helpers.reference_models import make_learning_tiny, make_reduced_tiny


@pytest.mark.parametrize("size", [64, 96, 256])
def test_features_and_skips_have_their_strides(size: int) -> None:
    """Embedding at stride 16, skips at strides 4 and 8 with an eighth and a quarter of its channels."""
    encoder = TinyEncoder(img_size=size, out_chans=64, width=0.25)
    features, (stride_4, stride_8) = encoder.forward_features(torch.zeros(2, 3, size, size))

    assert features.shape == (2, 64, size // 16, size // 16)
    assert stride_4.shape == (2, 8, size // 4, size // 4)
    assert stride_8.shape == (2, 16, size // 8, size // 8)


def test_forward_is_the_embedding_alone() -> None:
    """``image_encoder(x)`` returns one tensor, as for the other encoders."""
    encoder = TinyEncoder(img_size=64, out_chans=64, width=0.25)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    assert torch.equal(encoder(image), encoder.forward_features(image)[0])


@pytest.mark.parametrize(
    ("kernel_size", "stride", "same"), [(1, 1, (0, 0, 0, 0)), (3, 1, (1, 1, 1, 1)), (3, 2, (0, 1, 0, 1))]
)
def test_convolutions_pad_by_tensorflows_rule(
    kernel_size: int, stride: int, same: tuple[int, int, int, int]
) -> None:
    """An uneven pixel of padding lies at the right and bottom, as the ImageNet weights expect."""
    torch.manual_seed(0)
    layer = ConvReLU6(4, 4, kernel_size, stride=stride, groups=2).double()
    x = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    plain = F.conv2d(F.pad(x, same), layer.conv.weight, layer.conv.bias, stride, groups=2).clamp(0, 6)

    torch.testing.assert_close(layer(x), plain, rtol=0, atol=1e-14)


def test_outputs_lie_as_the_decoder_reads_them() -> None:
    """The trunk works with channels last; embedding and skips are contiguous, and the input is as it was."""
    encoder = TinyEncoder(img_size=64, out_chans=64, width=0.25)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    features, skips = encoder.forward_features(image)

    assert all(x.is_contiguous() for x in (features, *skips))
    assert torch.equal(image, before)


def skips_of_two_images(encoder: TinyEncoder) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the skips at the top left of two images that differ in their right half alone."""
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    other = image.clone()
    other[..., 64:] = 0
    skips = [encoder.forward_features(x)[1] for x in (image, other)]
    return [(stride_4[..., :4, :4], stride_8[..., :2, :2]) for stride_4, stride_8 in skips]


def test_untrained_top_down_path_leaves_the_skips_alone() -> None:
    """Skips start as what early layers see nearby, so that a model without the path keeps its masks."""
    torch.manual_seed(0)
    encoder = TinyEncoder(img_size=128, out_chans=64, width=0.25)
    (stride_4, stride_8), (other_4, other_8) = skips_of_two_images(encoder)

    assert torch.equal(stride_4, other_4)
    assert torch.equal(stride_8, other_8)


def test_top_down_path_tells_the_skips_of_what_is_far() -> None:
    """Once it is trained, both skips depend on pixels that no early layer sees from there."""
    torch.manual_seed(0)
    encoder = TinyEncoder(img_size=128, out_chans=64, width=0.25)
    for path in (encoder.top_down_4, encoder.top_down_8):
        torch.nn.init.normal_(path.out.weight)
    (stride_4, stride_8), (other_4, other_8) = skips_of_two_images(encoder)

    assert not torch.equal(stride_4, other_4)
    assert not torch.equal(stride_8, other_8)


def test_trunk_has_the_channels_of_mobilenet_v2() -> None:
    """At width 1 the taps have the channels of table 2 of the paper, and the trunk its number of weights.

    The published network has 3,504,872 parameters: 1,281,000 of the classifier and 412,160 of the last
    convolution, which the trunk leaves out, and 31,552 of batch normalisation, which is folded here.
    """
    encoder = TinyEncoder(img_size=64, out_chans=128)
    taps = [conv.in_channels for conv in (encoder.skip_4, encoder.skip_8)]
    taps += [conv.in_channels for conv in (encoder.lateral_16, encoder.lateral_32)]
    num_convolution_weights = sum(p.numel() for p in encoder.trunk.parameters() if p.ndim == 4)

    assert taps == [24, 32, 96, 320]
    assert num_convolution_weights == 3_504_872 - 1_281_000 - 412_160 - 31_552


def test_skip_features_reach_the_logits() -> None:
    """Zeroing either skip changes the masks and leaves predicted IoU alone, which is made before."""
    sam = make_reduced_tiny(image_size=64)
    [embedding] = sam.encode([np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)])
    assert embedding.skip_features is not None
    stride_4, stride_8 = embedding.skip_features
    prompt = {"point_coords": torch.ones(1, 1, 2), "point_labels": torch.ones(1, 1)}
    logits, iou = sam.decode(embedding, **prompt)

    for skips in ((torch.zeros_like(stride_4), stride_8), (stride_4, torch.zeros_like(stride_8))):
        changed = ImageEmbedding(
            features=embedding.features, input_size=(64, 64), original_size=(64, 64), skip_features=skips
        )
        other_logits, other_iou = sam.decode(changed, **prompt)
        assert not torch.allclose(other_logits, logits)
        assert torch.equal(other_iou, iou)


def test_images_encoded_together_are_as_if_alone() -> None:
    """Images of different sizes share a batch without seeing each other."""
    sam = make_reduced_tiny(image_size=64)
    rng = np.random.default_rng(0)
    images = [rng.integers(256, size=(h, w, 3), dtype=np.uint8) for h, w in ((64, 64), (90, 31), (7, 300))]
    together = sam.encode(images)

    assert [e.original_size for e in together] == [(64, 64), (90, 31), (7, 300)]
    assert [e.input_size for e in together] == [(64, 64), (64, 22), (1, 64)]
    for image, embedding in zip(images, together, strict=True):
        [alone] = sam.encode([image])
        assert torch.allclose(embedding.features, alone.features, atol=1e-5)


def test_saved_features_do_not_borrow_skips() -> None:
    """Features put back without their skip features are refused, not decoded with another image's."""
    predictor = SamPredictor(make_learning_tiny())
    predictor.set_image(np.zeros((40, 64, 3), np.uint8))
    saved, skips = predictor.features, predictor.skip_features
    box = np.array([5, 5, 20, 20])
    expected = predictor.predict(box=box)[2]
    predictor.set_image(np.full((40, 64, 3), 99, np.uint8))
    predictor.features = saved

    with pytest.raises(ValueError, match="skip_features"):
        predictor.predict(box=box)
    predictor.skip_features = skips
    assert np.array_equal(predictor.predict(box=box)[2], expected)


def test_the_decoder_of_tiny_says_what_it_needs_more() -> None:
    """Called with the original's five keywords, it names the other two."""
    sam = make_learning_tiny()
    sparse, dense = sam.prompt_encoder(None, torch.tensor([[5.0, 5, 20, 20]]), None)

    with pytest.raises(ValueError, match=r"skip_features.*places"):
        sam.mask_decoder(
            image_embeddings=torch.zeros(1, 32, 4, 4),
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
