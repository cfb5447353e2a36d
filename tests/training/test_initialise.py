"""Starting points of training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import ARCHITECTURES
from sam_engine.errors import CheckpointError
from sam_engine.modeling.tiny_encoder import STAGES, InvertedResidual, TinyEncoder
from sam_engine.training.config import TrainConfig
from sam_engine.training.initialise import build_initial, load_mobilenet_trunk, tie_cross_attention


def random_mobilenet() -> dict[str, np.ndarray]:
    """Weights of MobileNetV2 1.0 under torchvision's names, with a batch norm that does something."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}

    def add(conv: str, norm: str, out_channels: int, in_channels: int, kernel: int) -> None:
        scale = 1.5 / np.sqrt(in_channels * kernel * kernel)
        arrays[f"{conv}.weight"] = rng.normal(size=(out_channels, in_channels, kernel, kernel)) * scale
        arrays[f"{norm}.weight"] = rng.uniform(0.5, 1.5, out_channels)
        arrays[f"{norm}.bias"] = rng.normal(size=out_channels)
        arrays[f"{norm}.running_mean"] = rng.normal(size=out_channels) * 0.1
        arrays[f"{norm}.running_var"] = rng.uniform(0.5, 2, out_channels)

    add("features.0.0", "features.0.1", 32, 3, 3)
    channels, layer = 32, 1
    for expansion, out_channels, repeats, _ in STAGES:
        for _ in range(repeats):
            name, hidden, position = f"features.{layer}.conv", channels * expansion, 0
            if expansion > 1:
                add(f"{name}.0.0", f"{name}.0.1", hidden, channels, 1)
                position = 1
            add(f"{name}.{position}.0", f"{name}.{position}.1", hidden, 1, 3)
            add(f"{name}.{position + 1}", f"{name}.{position + 2}", out_channels, hidden, 1)
            channels, layer = out_channels, layer + 1
    return arrays


def reference_layer(x: torch.Tensor, arrays: dict[str, torch.Tensor], conv: str, norm: str, **kwargs: int):
    """Convolution and batch normalisation as two steps, padded as TensorFlow pads."""
    weight = arrays[f"{conv}.weight"]
    total = weight.shape[-1] - kwargs.get("stride", 1)
    before = total // 2 if weight.shape[-1] > 1 else 0
    after = total - before if weight.shape[-1] > 1 else 0
    y = F.conv2d(F.pad(x, (before, after, before, after)), weight, **kwargs)
    parts = (arrays[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(y, *parts, eps=1e-5)


def test_folded_trunk_equals_convolutions_with_batch_norm(tmp_path: Path):
    """The whole trunk gives what unfolded convolutions and batch norms give, layer after layer."""
    np.savez(tmp_path / "mobilenet.npz", **random_mobilenet())
    encoder = TinyEncoder(img_size=64).double()
    load_mobilenet_trunk(encoder, tmp_path / "mobilenet.npz")
    arrays = {name: torch.from_numpy(array) for name, array in random_mobilenet().items()}
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    expected = F.relu6(reference_layer(x, arrays, "features.0.0", "features.0.1", stride=2))
    for index, layer in enumerate(encoder.trunk):
        x = layer(x)
        if index > 0:
            assert isinstance(layer, InvertedResidual)
            name, position, y = f"features.{index}.conv", 0, expected
            if index > 1:
                y = F.relu6(reference_layer(y, arrays, f"{name}.0.0", f"{name}.0.1"))
                position = 1
            depthwise = f"{name}.{position}"
            stride = layer.conv[position].conv.stride[0]
            y = reference_layer(
                y, arrays, f"{depthwise}.0", f"{depthwise}.1", stride=stride, groups=y.shape[1]
            )
            y = reference_layer(F.relu6(y), arrays, f"{name}.{position + 1}", f"{name}.{position + 2}")
            expected = expected + y if layer.is_residual else y
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)


def test_wrong_trunk_weights_are_named(tmp_path: Path):
    """A file without MobileNetV2's tensors is refused with the missing name."""
    np.savez(tmp_path / "other.npz", a=np.zeros(3))

    with pytest.raises(CheckpointError, match=r"other\.npz.*features\.0\.0\.weight"):
        load_mobilenet_trunk(TinyEncoder(img_size=64), tmp_path / "other.npz")


def test_tied_attention_looks_at_the_click():
    """From the first step, a click's token attends most to the image cells round the click."""
    torch.manual_seed(0)
    sam = build_architecture(ARCHITECTURES["tiny"])
    tie_cross_attention(sam)
    attention = sam.mask_decoder.transformer.final_attn_token_to_image
    pe = sam.prompt_encoder.get_dense_pe()  # (1, C, h, w)
    height, width = pe.shape[2:]
    point = sam.prompt_encoder.pe_layer._pe_encoding(torch.tensor([[20.5 / width, 9.5 / height]]))

    logits = attention.q_proj(point) @ attention.k_proj(pe[0].flatten(1).T).T

    assert divmod(int(logits.argmax()), width) == (9, 20)


def test_training_model_fits_the_inference_model():
    """Weights trained on crops load into the architecture at its full size."""
    small = build_initial(TrainConfig(image_size=64))
    full = build_architecture(ARCHITECTURES["tiny"])

    result = full.load_state_dict(small.state_dict())

    assert not result.missing_keys
    assert not result.unexpected_keys
    assert isinstance(full, nn.Module)


@pytest.mark.parametrize("name", ["tiny", "vit_b"])
def test_a_model_is_trained_at_the_size_at_which_it_is_used(name: str):
    """Unless another is asked for: weights of another size answer clicks worse where they are used."""
    own = ARCHITECTURES[name].image_size

    assert TrainConfig(model=name).side == own
    with torch.device("meta"):
        assert build_initial(TrainConfig(model=name)).image_size == own
