"""Build functions, `load_model` and the public names."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sam_engine
from sam_engine.build_sam import (
    _build_sam,
    build_architecture,
    build_sam,
    build_sam_vit_b,
    build_sam_vit_h,
    build_tiny,
    choose_device,
    load_model,
    sam_model_registry,
)
from sam_engine.catalogue import ARCHITECTURES, MODELS, Architecture
from sam_engine.config import MODEL_NAMES, ModelConfig
from sam_engine.errors import CheckpointError, ConfigError
from tests.helpers.reference_models import SMALL_TINY


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """Make tiny smaller still."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", SMALL_TINY)
    return SMALL_TINY


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint of the small model."""
    torch.manual_seed(7)
    path = tmp_path / "small.safetensors"
    save_file(build_architecture(SMALL_TINY).state_dict(), path)
    return path


def test_every_model_name_has_an_architecture() -> None:
    """What the configuration accepts can be built."""
    assert set(MODEL_NAMES) == set(ARCHITECTURES)


def test_registry_has_the_names_of_segment_anything() -> None:
    """The default is vit_h, and ``build_sam`` is its build function."""
    assert list(sam_model_registry) == ["default", "vit_h", "vit_l", "vit_b", "tiny"]
    assert sam_model_registry["default"] is build_sam is build_sam_vit_h


def test_loaded_model_has_the_files_weights(weights: Path) -> None:
    """Every tensor is the file's, also the normalisation that no file holds; the model is in eval mode."""
    torch.manual_seed(7)
    expected = build_architecture(SMALL_TINY)
    sam = load_model(ModelConfig(checkpoint=str(weights), device="cpu"))

    assert not sam.training
    assert all(torch.equal(a, b) for a, b in zip(sam.parameters(), expected.parameters(), strict=True))
    assert torch.equal(sam.pixel_mean, expected.pixel_mean)
    assert torch.equal(sam.pixel_std, expected.pixel_std)
    assert all(tensor.device.type == "cpu" for tensor in (*sam.parameters(), *sam.buffers()))


def test_loaded_model_segments(weights: Path) -> None:
    """A loaded model encodes and decodes to the promised shapes in float32."""
    sam = load_model(ModelConfig(checkpoint=str(weights), device="cpu"))
    [embedding] = sam.encode([np.zeros((30, 40, 3), np.uint8)])
    logits, iou = sam.decode(
        embedding, point_coords=torch.tensor([[[5.0, 5.0]], [[9.0, 9.0]]]), point_labels=torch.ones(2, 1)
    )

    assert (embedding.input_size, embedding.original_size) == ((48, 64), (30, 40))
    assert (logits.shape, iou.shape) == ((2, 3, 16, 16), (2, 3))
    assert logits.dtype == iou.dtype == torch.float32


@pytest.mark.parametrize("name", ["tiny", "vit_b"])
def test_build_function_loads_a_path(weights: Path, name: str) -> None:
    """Build functions take a path-like checkpoint, and refuse one of another model."""
    if name == "tiny":
        assert not sam_model_registry[name](checkpoint=weights).training
    else:
        with pytest.raises(CheckpointError, match=r"made for tiny, but model.name is vit_b"):
            sam_model_registry[name](checkpoint=weights)


def test_tiny_without_checkpoint_has_its_bundled_weights(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike the released sizes, tiny is never untrained by default."""
    monkeypatch.setitem(MODELS, "tiny", replace(MODELS["tiny"], bundled=weights))
    expected = load_model(ModelConfig(checkpoint=str(weights), device="cpu"))

    assert torch.equal(build_tiny().mask_decoder.iou_token.weight, expected.mask_decoder.iou_token.weight)


def test_build_without_checkpoint_is_untrained_as_in_segment_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``sam_model_registry["vit_b"]()`` downloads nothing, and takes torch's random state."""
    monkeypatch.setitem(
        ARCHITECTURES, "vit_b", Architecture(image_size=64, embed_dim=48, depth=1, num_heads=3)
    )
    torch.manual_seed(1)
    first = build_sam_vit_b().mask_decoder.iou_token.weight
    second = build_sam_vit_b(checkpoint=None).mask_decoder.iou_token.weight

    assert not torch.equal(first, second)


def test_random_weights_are_the_same_everywhere() -> None:
    """checkpoint=random means one set of weights, for every worker, and leaves torch's random state alone."""
    state = torch.random.get_rng_state()
    first, second = (load_model(ModelConfig(checkpoint="random", device="cpu")) for _ in range(2))

    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_missing_and_unexpected_keys_are_listed_shortly(tmp_path: Path) -> None:
    """A checkpoint that does not fit says how many keys are wrong and names the first three."""
    state = build_architecture(SMALL_TINY).state_dict()
    for name in [name for name in state if "iou_prediction_head" in name][:4]:
        state[f"extra.{name}"] = state.pop(name)
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 7)
    path = tmp_path / "odd.pth"
    torch.save(state, path)

    with pytest.raises(CheckpointError) as caught:
        load_model(ModelConfig(checkpoint=str(path), device="cpu"))

    message = str(caught.value)
    assert "4 missing: mask_decoder.iou_prediction_head.layers.0.weight, " in message
    assert "4 unexpected: extra.mask_decoder.iou_prediction_head.layers.0.weight, " in message
    assert message.count(", ...") == 2
    assert "1 of another shape: mask_decoder.iou_token.weight (1, 7) instead of (1, 32)" in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda:99"}, r"model.device is 'cuda:99', but torch finds \d+ CUDA devices here"),
        ({"device": "cpu", "precision": "tf32"}, "model.precision is 'tf32', which only CUDA has"),
    ],
)
def test_missing_devices_are_refused(settings: dict[str, str], message: str) -> None:
    """A device or precision that this machine lacks is an error, never something else instead."""
    with pytest.raises(ConfigError, match=message):
        load_model(ModelConfig(checkpoint="random", **settings))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_the_encoders_alone(precision: str) -> None:
    """Half precision changes the embedding a little; embedding, logits and predicted IoU stay float32."""
    exact = load_model(ModelConfig(checkpoint="random", device="cpu"))
    half = load_model(ModelConfig(checkpoint="random", device="cpu", precision=precision))
    image = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    [expected], [embedding] = exact.encode([image]), half.encode([image])
    points = {"point_coords": torch.ones(1, 1, 2), "point_labels": torch.ones(1, 1)}
    logits, iou = half.decode(embedding, **points)

    assert embedding.skip_features is not None
    tensors = (embedding.features, *embedding.skip_features, logits, iou)
    assert [tensor.dtype for tensor in tensors] == [torch.float32] * 5
    difference = (embedding.features - expected.features).abs().max()
    assert 0 < difference < 0.1 * expected.features.abs().max()


def test_encode_refuses_what_is_no_rgb_image() -> None:
    """Grey and float images are named by shape and type."""
    sam = build_architecture(SMALL_TINY)

    assert sam.encode([]) == []
    with pytest.raises(ValueError, match=r"images are \(H, W, 3\) uint8 RGB, got \(4, 4\) uint8"):
        sam.encode([np.zeros((4, 4), np.uint8)])
    with pytest.raises(ValueError, match=r"got \(4, 4, 3\) float64"):
        sam.encode([np.zeros((4, 4, 3))])


def test_importing_the_package_does_not_import_torch() -> None:
    """Readers and ``--help`` start without torch, ray and pyarrow."""
    code = "import sys, sam_engine; sys.exit(bool({'torch', 'ray', 'pyarrow', 'hydra'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_resolves() -> None:
    """All of ``__all__`` can be imported, is what ``dir`` shows, and nothing else is promised."""
    assert all(getattr(sam_engine, name) is not None for name in sam_engine.__all__)
    assert set(sam_engine.__all__) == set(sam_engine._MODULE_OF) <= set(dir(sam_engine))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = sam_engine.nothing


def test_names_of_segment_anything_are_public() -> None:
    """Everything that ``from segment_anything import ...`` offers is here."""
    names = {"build_sam", "build_sam_vit_h", "build_sam_vit_l", "build_sam_vit_b"}
    names |= {"sam_model_registry", "SamPredictor", "SamAutomaticMaskGenerator"}

    assert names <= set(sam_engine.__all__)


def test_mps_that_lacks_an_operation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a model is loaded; the error names what is missing."""

    def missing(*_: object, **__: object) -> None:
        raise NotImplementedError("aten::nonzero_static is not implemented for the MPS device")

    zeros = torch.zeros
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *size, device, **rest: zeros(*size, **rest))
    with monkeypatch.context() as patched:
        patched.setattr(torch, "nonzero_static", missing)
        with pytest.raises(ConfigError, match="lacks nonzero_static"):
            choose_device(ModelConfig(device="mps"))

    assert choose_device(ModelConfig(device="mps")).type == "mps"


def test_a_missing_checkpoint_is_a_file_not_found() -> None:
    """As ``segment_anything`` raises it, and a mistake in a setting as well."""
    for build in (build_sam_vit_b, build_tiny):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.pth.*no such file") as caught:
            build(checkpoint="nowhere.pth")
        assert isinstance(caught.value, CheckpointError)


def test_a_released_kind_of_model_is_built_from_sizes(tmp_path: Path) -> None:
    """By ``_build_sam``, as forks of the original do, with and without weights."""
    made = _build_sam(32, 2, 2, [1])
    torch.save(made.state_dict(), tmp_path / "weights.pth")
    loaded = _build_sam(
        encoder_embed_dim=32,
        encoder_depth=2,
        encoder_num_heads=2,
        encoder_global_attn_indexes=(1,),
        checkpoint=tmp_path / "weights.pth",
    )

    assert [block.window_size for block in loaded.image_encoder.blocks] == [14, 0]
    for name, value in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
