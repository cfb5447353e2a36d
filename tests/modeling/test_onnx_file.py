"""ONNX files of both halves: their names, their answers, and that a wrong one is never left."""

import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from sam_engine.build_sam import build_architecture
from sam_engine.errors import ConfigError, ExportError
from sam_engine.modeling import onnx_file
from sam_engine.modeling.onnx import SamOnnxModel
from sam_engine.modeling.onnx_file import (
    check_decoder,
    check_encoder,
    check_split,
    export_decoder,
    export_encoder,
    export_split,
)
from sam_engine.modeling.onnx_graphs import DecoderGraph, EncoderGraph
from sam_engine.modeling.onnx_split import ImageGraph, PromptGraph
from sam_engine.modeling.sam import Sam
from tests.helpers.reference_models import SMALL, SMALL_TINY, randomise

ARCHITECTURES = {
    "vit": replace(SMALL, image_size=128, depth=2, window_size=3, decoder_heads=2),
    "tiny": SMALL_TINY,
}
PROMPT = ["image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input"]
SKIPS = {"vit": [], "tiny": ["skip_4", "skip_8"]}


@pytest.fixture(scope="module")
def onnxruntime() -> ModuleType:
    pytest.importorskip("onnx", reason="comes with the extra onnx")
    return pytest.importorskip("onnxruntime", reason="comes with the extra onnx")


@pytest.fixture(scope="module", params=["vit", "tiny"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def sam(family: str) -> Sam:
    return make_sam(family)


def make_sam(family: str) -> Sam:
    """Return a small model, in which prompt maps and skip features count."""
    sam = build_architecture(ARCHITECTURES[family])
    randomise(sam, seed=1)  # the vit of seed 0 turns rounding into differences of 1e-3
    return sam


def names(onnxruntime: ModuleType, path: Path) -> tuple[list[str], list[str]]:
    """Return the names of inputs and outputs."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [x.name for x in session.get_inputs()], [x.name for x in session.get_outputs()]


def test_the_decoder_answers_as_torch(sam: Sam, family: str, onnxruntime: ModuleType, tmp_path: Path) -> None:
    """With points, boxes and masks; names are the original's, and skip features come last.

    One of them answers with masks of the image's size as well.
    """
    full_size = family == "tiny"
    path = tmp_path / "decoder.onnx"
    summary = export_decoder(sam, path, full_size=full_size)

    size, masks = (["orig_im_size"], ["masks"]) if full_size else ([], [])
    inputs = PROMPT + size + SKIPS[family]
    assert names(onnxruntime, path) == (inputs, [*masks, "iou_predictions", "low_res_masks"])
    assert summary.max_difference <= 1e-3
    assert summary.num_checks == 18
    assert [file.name for file in tmp_path.iterdir()] == ["decoder.onnx"]


def test_the_encoder_answers_as_torch(sam: Sam, family: str, onnxruntime: ModuleType, tmp_path: Path) -> None:
    """Images of every shape, normalised and padded in the graph."""
    path = tmp_path / "encoder.onnx"
    summary = export_encoder(sam, path)

    assert names(onnxruntime, path) == (["image"], ["image_embeddings", *SKIPS[family]])
    assert summary.max_difference <= 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["encoder.onnx"]


def test_both_halves_of_a_split_decoder_answer_as_torch(
    sam: Sam, onnxruntime: ModuleType, tmp_path: Path
) -> None:
    """One graph an image or mask to refine, and one a prompt, which takes the first's answer and points."""
    summary = export_split(sam, tmp_path / "decoder.onnx")

    image, prompt = tmp_path / "decoder-image.onnx", tmp_path / "decoder-prompt.onnx"
    points = ["point_coords", "point_labels"]
    assert {*names(onnxruntime, prompt)[0]} == {*names(onnxruntime, image)[1], *points}
    assert summary.max_difference <= 1e-3
    assert summary.num_checks == 18
    assert {*tmp_path.iterdir()} == {image, prompt}


def test_half_the_bytes_in_fp16(sam: Sam, onnxruntime: ModuleType, tmp_path: Path) -> None:
    """Its inputs and outputs are the same; answers differ by what rounded weights do."""
    whole = export_encoder(sam, tmp_path / "whole.onnx")
    half = export_encoder(sam, tmp_path / "half.onnx", precision="fp16")

    assert sum(half.num_bytes.values()) < 0.75 * sum(
        whole.num_bytes.values()
    )  # of which a graph of small weights is much
    assert 0 < half.max_difference < 0.02


@pytest.mark.slow
def test_a_quarter_in_int8_and_what_it_costs_is_measured(onnxruntime: ModuleType, tmp_path: Path) -> None:
    """Masks are others, by how much is in the summary."""
    sam = make_sam("vit")
    whole = export_decoder(sam, tmp_path / "whole.onnx")
    small = export_decoder(sam, tmp_path / "small.onnx", precision="int8")

    assert whole.min_mask_iou == pytest.approx(1, abs=0.01)
    assert small.max_difference > 10 * whole.max_difference
    assert 0 < small.min_mask_iou < small.mean_mask_iou < 1
    assert sum(small.num_bytes.values()) < sum(whole.num_bytes.values())


def test_the_original_s_model_gives_the_same(onnxruntime: ModuleType, tmp_path: Path) -> None:
    """What was written for a file of segment_anything's script runs with ours."""
    sam = make_sam("vit")
    export_decoder(sam, tmp_path / "decoder.onnx", full_size=True)
    session = onnxruntime.InferenceSession(tmp_path / "decoder.onnx", providers=["CPUExecutionProvider"])
    inputs = DecoderGraph(sam).example()
    inputs["image_embeddings"] = torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs["orig_im_size"] = torch.tensor([150.0, 220.0])
    expected = SamOnnxModel(sam, return_single_mask=False)(**inputs)
    found = session.run(
        ["masks", "iou_predictions", "low_res_masks"], {name: value.numpy() for name, value in inputs.items()}
    )

    for mine, theirs in zip(found, expected, strict=True):
        assert np.abs(mine - theirs.numpy()).max() <= 1e-4 * max(1, float(theirs.abs().max()))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_wrong_file_is_not_left(onnxruntime: ModuleType, tmp_path: Path, precision: str) -> None:
    """Here of a model whose answers are no numbers, and so no number is near them."""
    sam = make_sam("tiny")
    with torch.no_grad():
        sam.mask_decoder.iou_token.weight.fill_(torch.nan)

    with pytest.raises(ExportError, match=r"decoder\.onnx: .* differs from torch by nan"):
        export_decoder(sam, tmp_path / "decoder.onnx", precision=precision)
    assert not list(tmp_path.iterdir())


def test_a_difference_is_found(onnxruntime: ModuleType, tmp_path: Path) -> None:
    """Weights that changed after the file was written are above the limit."""
    sam = make_sam("vit")
    export_decoder(sam, tmp_path / "decoder.onnx")
    with torch.no_grad():
        sam.prompt_encoder.point_embeddings[3].weight.add_(0.1)

    assert check_decoder(DecoderGraph(sam), tmp_path / "decoder.onnx")["max_difference"] > 1e-3


def test_files_above_protobuf_s_limit_are_refused(
    onnxruntime: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is traced; the message says what would do."""
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 1000)

    with pytest.raises(ConfigError, match="use --precision fp16"):
        export_encoder(make_sam("tiny"), tmp_path / "encoder.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["decoder", "full size", "encoder", "split"])
def test_the_newer_exporter_writes_all(sam: Sam, onnxruntime: ModuleType, tmp_path: Path, part: str) -> None:
    """torch.export's, of the same graphs: images of every shape, masks of every size, both of the split."""
    num_points = torch.export.Dim("num_points", min=2, max=100)
    height, width = (torch.export.Dim(name, min=1, max=sam.image_size) for name in ("height", "width"))
    points = {1: num_points}
    variable = {"point_coords": points, "point_labels": points, "image": {2: height, 3: width}}

    def write(graph: onnx_file.Graph) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                (),
                path,
                kwargs=graph.example(),
                input_names=graph.input_names,
                output_names=graph.output_names,
                dynamic_shapes={name: variable.get(name) for name in graph.input_names},
                dynamo=True,
                verbose=False,
            )
        return path

    if part == "encoder":
        encoder = EncoderGraph(sam)
        found, limit = check_encoder(encoder, write(encoder)), 1e-4
    elif part == "split":
        image, prompt = ImageGraph(sam), PromptGraph(sam)
        found, limit = check_split(image, prompt, write(image), write(prompt)), 1e-3
    else:
        decoder = DecoderGraph(sam, full_size=part == "full size")
        found, limit = check_decoder(decoder, write(decoder)), 1e-3

    assert found["max_difference"] <= limit
