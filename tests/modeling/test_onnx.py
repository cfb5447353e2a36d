"""Both halves of a model, exported by either of torch's exporters, answer in onnxruntime as in torch."""

import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sam_engine.build_sam import build_architecture
from sam_engine.errors import ConfigError
from sam_engine.modeling.onnx import SamOnnxModel
from sam_engine.modeling.sam import Sam
from tests.helpers.reference_models import SMALL, SMALL_TINY, randomise

ARCHITECTURE = replace(SMALL, image_size=128, depth=2, window_size=3, decoder_heads=2)
"""8 x 8 tokens, of which windows of 3 hold 9 x 9."""
ASPECT_RATIOS = [(150, 220), (220, 150), (64, 64), (40, 300)]
INPUTS = (
    "image_embeddings",
    "point_coords",
    "point_labels",
    "mask_input",
    "has_mask_input",
    "orig_im_size",
)
OUTPUTS = ("masks", "iou_predictions", "stability_scores", "areas", "low_res_masks")
NUM_POINTS = torch.export.Dim("num_points", min=2, max=100)
BY_TRACE = {"dynamo": False, "dynamic_axes": {"point_coords": {1: "n"}, "point_labels": {1: "n"}}}
BY_GRAPH = {
    "dynamo": True,
    "verbose": False,
    "dynamic_shapes": dict.fromkeys(INPUTS) | {name: {1: NUM_POINTS} for name in INPUTS[1:3]},
}


@pytest.fixture(scope="module")
def sam() -> Sam:
    sam = build_architecture(ARCHITECTURE)
    randomise(sam, seed=0)
    return sam


@pytest.fixture(scope="module")
def onnxruntime() -> ModuleType:
    return pytest.importorskip("onnxruntime", reason="comes with the extra onnx")


def make_inputs(num_points: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the decoder's inputs for an image of this size."""
    generator = torch.Generator().manual_seed(num_points)
    coords = 100 * torch.rand(1, num_points, 2, generator=generator)
    masks = torch.randn(1, 1, 32, 32, generator=generator)
    values = (
        torch.randn(1, 64, 8, 8, generator=generator),
        coords,
        torch.tensor([[1.0, 0, -1, 2, 3]])[:, :num_points],
        masks,
        torch.tensor([float(num_points % 2)]),
        torch.tensor(size, dtype=torch.float32),
    )
    return dict(zip(INPUTS, values, strict=True))


def export(model: nn.Module, inputs: tuple[Tensor, ...], path: Path, **settings: Any) -> None:
    """Write a file, with exporters' advice left unread."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, inputs, path, **settings)


def assert_decoder_runs(onnxruntime: ModuleType, model: SamOnnxModel, path: Path) -> None:
    """Check every aspect ratio, with two to five points, with and without a mask."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for num_points, size in enumerate(ASPECT_RATIOS, start=2):
        inputs = make_inputs(num_points, size)
        expected = model(**inputs)
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})

        assert found[0].shape == (1, 1, *size)
        for mine, theirs in zip(found, expected, strict=True):
            assert np.abs(mine - theirs.numpy()).max() <= 1e-3 * max(1, float(theirs.abs().max()))


@pytest.mark.parametrize("opset", [11, 17])
def test_the_traced_decoder_runs(sam: Sam, onnxruntime: ModuleType, tmp_path: Path, opset: int) -> None:
    """TorchScript's exporter, with the lowest opset of the original's script and its default."""
    model = SamOnnxModel(sam, return_single_mask=True, return_extra_metrics=True)
    inputs = tuple(make_inputs(5, (150, 220)).values())
    export(
        model,
        inputs,
        tmp_path / "decoder.onnx",
        opset_version=opset,
        input_names=INPUTS,
        output_names=OUTPUTS,
        **BY_TRACE,
    )

    assert_decoder_runs(onnxruntime, model, tmp_path / "decoder.onnx")


@pytest.mark.parametrize("opset", [12, 17])
def test_the_traced_encoder_runs(sam: Sam, onnxruntime: ModuleType, tmp_path: Path, opset: int) -> None:
    """The image encoder, whose windows need padding."""
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    export(sam.image_encoder, (image,), tmp_path / "encoder.onnx", opset_version=opset, dynamo=False)

    assert_encoder_runs(onnxruntime, sam, image, tmp_path / "encoder.onnx")


def assert_encoder_runs(onnxruntime: ModuleType, sam: Sam, image: Tensor, path: Path) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: image.numpy()})

    with torch.no_grad():
        expected = sam.image_encoder(image).numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_the_exported_decoder_runs(sam: Sam, onnxruntime: ModuleType, tmp_path: Path) -> None:
    """torch.export's exporter, which torch takes by default."""
    model = SamOnnxModel(sam, return_single_mask=True, return_extra_metrics=True)
    inputs = tuple(make_inputs(5, (150, 220)).values())
    export(model, inputs, tmp_path / "decoder.onnx", input_names=INPUTS, output_names=OUTPUTS, **BY_GRAPH)

    assert_decoder_runs(onnxruntime, model, tmp_path / "decoder.onnx")


@pytest.mark.slow
def test_the_exported_encoder_runs(sam: Sam, onnxruntime: ModuleType, tmp_path: Path) -> None:
    """The same for the image encoder."""
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    export(sam.image_encoder, (image,), tmp_path / "encoder.onnx", dynamo=True, verbose=False)

    assert_encoder_runs(onnxruntime, sam, image, tmp_path / "encoder.onnx")


def test_models_with_skip_features_are_refused() -> None:
    """The message names those that are not."""
    with pytest.raises(ConfigError, match="vit_b, vit_l, vit_h"):
        SamOnnxModel(build_architecture(SMALL_TINY), return_single_mask=True)
