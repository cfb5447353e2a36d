"""Writing a model's ONNX files, and holding each against torch before it gets its name."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sam_engine.errors import ConfigError, ExportError
from sam_engine.files import new_path, writing_to
from sam_engine.modeling.onnx_graphs import SKIPS, DecoderGraph, EncoderGraph
from sam_engine.modeling.onnx_split import ImageGraph, PromptGraph
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.segmenter import ImageEmbedding

Graph = DecoderGraph | EncoderGraph | ImageGraph | PromptGraph

PRECISIONS = ("fp32", "fp16", "int8")
"""What weights are stored in. Graphs take and give float32, and compute in it; with int8 they multiply
matrices in integers, and masks are others."""
BYTES_PER_WEIGHT = {"fp32": 4, "fp16": 2, "int8": 1}
OPSET = 17
MAX_DIFFERENCE = 1e-3
"""More than this between torch and the file, with fp32: the export fails. In logits, and for the encoder
relative to the largest value."""
MIN_ELEMENTS_HALVED = 1024
"""Smaller tensors stay float32: no part of the size, but some of the accuracy (position frequencies)."""
MAX_BYTES = 2**31 - 1
"""Of a file: protobuf's own limit."""
PROMPT_KINDS = ("points", "box", "points and box")
IMAGE_SIZES = ((1.0, 1.0), (0.5, 1.0), (1.0, 0.7))
"""Height and width of images that the encoder is checked with, in sides of its input."""


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """Files that were written, and how far their answers were from torch's."""

    num_bytes: dict[str, int]
    """Of each file, by its path."""
    max_difference: float
    """Largest of logits; for the encoder, of embedding and skip features, relative to the largest value."""
    max_score_difference: float | None = None
    """Largest of predicted IoU; None for the encoder."""
    min_mask_iou: float | None = None
    """Least IoU of a mask with torch's; None for the encoder."""
    mean_mask_iou: float | None = None
    """Likewise, over all masks."""
    num_checks: int
    """Prompts or images that it was checked with."""


def export_decoder(
    sam: Sam, output: Path, *, full_size: bool = False, precision: str = "fp32"
) -> ExportSummary:
    """Write prompt encoder and mask decoder, checked with points, boxes and mask prompts.

    Args:
        sam: On the CPU.
        output: The file; there is none if anything fails.
        full_size: See `DecoderGraph`.
        precision: One of `PRECISIONS`.

    Raises:
        ConfigError: The extra ``onnx`` is not installed.
        ExportError: What was written does not answer as the model does.
        StorageError: It cannot be written.
    """
    graph = DecoderGraph(sam, full_size=full_size)
    with writing_to(output), new_path(output) as part:
        write_graph(graph, part, precision)
        return _accept(check_decoder(graph, part), {output: part}, precision)


def export_encoder(sam: Sam, output: Path, *, precision: str = "fp32") -> ExportSummary:
    """Write the image encoder, checked with images of several shapes; otherwise as `export_decoder`."""
    graph = EncoderGraph(sam)
    with writing_to(output), new_path(output) as part:
        write_graph(graph, part, precision)
        return _accept(check_encoder(graph, part), {output: part}, precision)


def export_split(sam: Sam, output: Path, *, precision: str = "fp32") -> ExportSummary:
    """Write the decoder as two files, of `split_paths`; otherwise as `export_decoder`.

    The first runs once an image, and once more for each mask of a previous round; the second for each prompt.
    """
    image, prompt = ImageGraph(sam), PromptGraph(sam)
    first, second = split_paths(output)
    with writing_to(output), new_path(first) as image_part, new_path(second) as prompt_part:
        write_graph(image, image_part, precision)
        write_graph(prompt, prompt_part, precision)
        found = check_split(image, prompt, image_part, prompt_part)
        return _accept(found, {first: image_part, second: prompt_part}, precision)


def split_paths(output: Path) -> tuple[Path, Path]:
    """Return ``OUTPUT-image.onnx`` and ``OUTPUT-prompt.onnx``."""
    return output.with_stem(f"{output.stem}-image"), output.with_stem(f"{output.stem}-prompt")


def _accept(found: dict[str, Any], parts: dict[Path, Path], precision: str) -> ExportSummary:
    """Return the summary of checked files, which are still parts, or raise `ExportError`."""
    difference = found["max_difference"]
    # Written so that NaN fails.
    if not (difference <= MAX_DIFFERENCE if precision == "fp32" else np.isfinite(difference)):
        raise ExportError(
            f"{' and '.join(map(str, parts))}: what onnxruntime makes of it differs from torch by "
            f"{difference:.2g}; wanted is at most {MAX_DIFFERENCE} with fp32, and else a number. "
            "Nothing was written"
        )
    return ExportSummary(
        num_bytes={str(output): part.stat().st_size for output, part in parts.items()}, **found
    )


def write_graph(graph: Graph, path: Path, precision: str) -> None:
    """Write a graph as one file, weights included.

    Raises:
        ConfigError: ``onnx`` is not installed, or the file would be above `MAX_BYTES`.
    """
    onnx = _import("onnx")
    num_bytes = sum(parameter.nbytes for parameter in _weights(graph))
    if num_bytes * BYTES_PER_WEIGHT[precision] // 4 > MAX_BYTES:
        raise ConfigError(
            f"the weights have {num_bytes / 2**30:.1f} GiB, and an ONNX file at most 2: use --precision fp16"
        )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice of exporters, and of tracing, whose result is checked
        traced = Path(folder) / "traced.onnx"  # beyond 2 GiB, torch puts further files beside it
        torch.onnx.export(
            graph.eval(),
            (),
            str(traced),
            kwargs=graph.example(),
            input_names=list(graph.input_names),
            output_names=list(graph.output_names),
            dynamic_axes=graph.dynamic_axes,
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(traced)
        if precision == "int8":
            _import("onnxruntime.quantization").quantize_dynamic(
                model,
                path,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                nodes_to_exclude=_small_products(model),
            )
            return
    if precision == "fp16":
        halve_weights(model)
    onnx.save(model, path)


def _small_products(model: Any) -> list[str]:
    """Return the names of nodes with few weights: among them the frequencies that places are encoded by."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    return [node.name for node in products if sizes.get(node.input[1], 0) < MIN_ELEMENTS_HALVED]


def _weights(graph: Graph) -> Iterator[Tensor]:
    """Return the parameters that a graph holds."""
    sam = graph.sam
    if isinstance(graph, EncoderGraph):
        yield from sam.image_encoder.parameters()
    else:
        yield from sam.prompt_encoder.parameters()
        yield from sam.mask_decoder.parameters()


def halve_weights(model: Any) -> None:
    """Store large float32 tensors of an ONNX model as float16, and cast them back when it is loaded."""
    onnx = _import("onnx")
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < MIN_ELEMENTS_HALVED:
            continue
        name, stored = tensor.name, f"{tensor.name}.fp16"
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@torch.no_grad()
def check_decoder(graph: DecoderGraph, path: Path) -> dict[str, Any]:
    """Compare a file with the model, called as Python's predictor calls it.

    Returns:
        The fields of `ExportSummary` that say how far apart they are.
    """
    session = _open(path)

    def answer(embedding: ImageEmbedding, prompt: _Prompt) -> dict[str, NDArray[np.float32]]:
        return _run(session, decoder_inputs(graph, embedding, prompt))

    return _check_prompts(graph.sam, answer)


@torch.no_grad()
def check_split(
    image: ImageGraph, prompt: PromptGraph, image_path: Path, prompt_path: Path
) -> dict[str, Any]:
    """Compare two files, one after the other, with the model; returns as `check_decoder`."""
    sam, image_session, prompt_session = image.sam, _open(image_path), _open(prompt_path)
    whole = DecoderGraph(sam)

    def answer(embedding: ImageEmbedding, given: _Prompt) -> dict[str, NDArray[np.float32]]:
        inputs = decoder_inputs(whole, embedding, given)
        shared = _run(image_session, {name: inputs[name] for name in image.input_names})
        inputs |= {name: torch.from_numpy(value) for name, value in shared.items()}
        return _run(prompt_session, {name: inputs[name] for name in prompt.input_names})

    return _check_prompts(sam, answer)


def _check_prompts(sam: Sam, answer: "Answer") -> dict[str, Any]:
    """Compare answers to random prompts, with and without a mask, with the model's."""
    generator = torch.Generator().manual_seed(0)
    differences, score_differences, ious = [], [], []
    embedding = _encode_example(sam, generator)
    for kind, num_points, has_mask in product(PROMPT_KINDS, (1, 2, 5), (False, True)):
        prompt = _make_prompt(sam, kind, num_points, has_mask, generator)
        logits, scores = _predict(sam, embedding, prompt)
        outputs = answer(embedding, prompt)
        pairs = [(outputs["low_res_masks"], logits)]
        if "masks" in outputs:
            sizes = embedding.input_size, embedding.original_size
            pairs.append((outputs["masks"], sam.postprocess_masks(logits, *sizes)))
        for found, expected in pairs:
            differences.append(_difference(found, expected))
            ious += _mask_ious(found, expected, sam.mask_threshold)
        score_differences.append(_difference(outputs["iou_predictions"], scores))
    return {
        "max_difference": float(np.max(differences)),
        "max_score_difference": float(np.max(score_differences)),
        "min_mask_iou": float(min(ious)),
        "mean_mask_iou": float(np.mean(ious)),
        "num_checks": len(score_differences),
    }


@torch.no_grad()
def check_encoder(
    graph: EncoderGraph, path: Path, *, sizes: Sequence[tuple[float, float]] = IMAGE_SIZES
) -> dict[str, Any]:
    """Compare a file with the model on images of these sizes; returns as `check_decoder`."""
    sam, session = graph.sam, _open(path)
    generator = torch.Generator().manual_seed(0)
    differences = []
    for size in sizes:
        image = _make_image(sam, size, generator)
        features, skips = sam.encode_inputs(sam.preprocess(image))
        outputs = _run(session, {"image": image})
        for name, expected in zip(graph.output_names, (features, *(skips or ())), strict=True):
            differences.append(_difference(outputs[name], expected) / max(1.0, float(expected.abs().max())))
    return {"max_difference": float(np.max(differences)), "num_checks": len(sizes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """One prompt, as `PromptEncoder.forward` takes it."""

    points: tuple[Tensor, Tensor] | None
    box: Tensor | None
    mask: Tensor | None


Answer = Callable[[ImageEmbedding, _Prompt], dict[str, NDArray[np.float32]]]
"""What a file, or two, make of a prompt on an image."""


def decoder_inputs(graph: DecoderGraph, embedding: ImageEmbedding, prompt: _Prompt) -> dict[str, Tensor]:
    """Return a prompt on an image as the inputs of a decoder's file."""
    coords, labels = [], []
    if prompt.points is not None:
        coords.append(prompt.points[0])
        labels.append(prompt.points[1])
    if prompt.box is not None:
        coords.append(prompt.box.reshape(1, 2, 2))
        labels.append(torch.tensor([[2.0, 3.0]]))
    else:
        coords.append(torch.zeros(1, 1, 2))
        labels.append(torch.tensor([[-1.0]]))
    mask = prompt.mask
    values = {
        "image_embeddings": embedding.features,
        "point_coords": torch.cat(coords, dim=1),
        "point_labels": torch.cat(labels, dim=1),
        "mask_input": torch.zeros(1, 1, *graph.sam.prompt_encoder.mask_input_size) if mask is None else mask,
        "has_mask_input": torch.tensor([0.0 if mask is None else 1.0]),
        "orig_im_size": torch.tensor(embedding.original_size, dtype=torch.float32),
        **dict(zip(SKIPS, embedding.skip_features or (), strict=False)),
    }
    return {name: values[name] for name in graph.input_names}


def _make_image(sam: Sam, size: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Return blobs of colour, (1, 3, H, W) in [0, 255], of a size in sides of the model's input."""
    height, width = (max(1, round(sam.image_size * side)) for side in size)
    blobs = torch.rand(1, 3, 6, 6, generator=generator)
    return 255 * F.interpolate(blobs, (height, width), mode="nearest")


def _encode_example(sam: Sam, generator: torch.Generator) -> ImageEmbedding:
    """Return the embedding of an image that is broader than high."""
    image = _make_image(sam, (0.7, 1.0), generator)
    features, skips = sam.encode_inputs(sam.preprocess(image))
    height, width = image.shape[-2:]
    return ImageEmbedding(
        features=features,
        skip_features=skips,
        input_size=(height, width),
        original_size=(height * 3 // 2, width * 3 // 2),
    )


def _make_prompt(sam: Sam, kind: str, num_points: int, has_mask: bool, generator: torch.Generator) -> _Prompt:
    """Return a random prompt of a kind, of `PROMPT_KINDS`."""
    side = sam.image_size
    points = box = mask = None
    if "points" in kind:
        coords = side * torch.rand(1, num_points, 2, generator=generator)
        points = coords, torch.randint(0, 2, (1, num_points), generator=generator).float()
    if "box" in kind:
        box = (side * torch.rand(2, 2, generator=generator)).sort(dim=0).values.reshape(1, 4)
    if has_mask:
        coarse = 8 * torch.randn(1, 1, 8, 8, generator=generator)
        mask = F.interpolate(coarse, sam.prompt_encoder.mask_input_size, mode="bilinear")
    return _Prompt(points=points, box=box, mask=mask)


def _predict(sam: Sam, embedding: ImageEmbedding, prompt: _Prompt) -> tuple[Tensor, Tensor]:
    """Return the logits and scores of all mask tokens, by the model's own calls."""
    encoder = sam.prompt_encoder
    sparse, dense = encoder(prompt.points, prompt.box, prompt.mask)
    skips = embedding.skip_features
    return sam.mask_decoder.predict_masks(
        image_embeddings=embedding.features,
        image_pe=encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        skip_features=skips,
        places=None if skips is None else encoder.places(prompt.points, prompt.box),
    )


def _difference(found: NDArray[np.float32], expected: Tensor) -> float:
    return float(np.abs(found - expected.numpy()).max())


def _mask_ious(found: NDArray[np.float32], expected: Tensor, threshold: float) -> list[float]:
    """Return the IoU of each mask with the one expected; of two empty ones 1."""
    mine, theirs = found[0] > threshold, expected[0].numpy() > threshold
    union = (mine | theirs).sum(axis=(1, 2))
    both = (mine & theirs).sum(axis=(1, 2))
    return [float(b / u) if u else 1.0 for b, u in zip(both, union, strict=True)]


def _open(path: Path) -> Any:
    """Return a session of onnxruntime on the CPU."""
    ort = _import("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session: Any, inputs: dict[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """Return the outputs by name."""
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {name: value.numpy() for name, value in inputs.items()})
    return dict(zip(names, values, strict=True))


def _import(name: str) -> Any:
    """Return a module of the extra ``onnx``."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{name} is not installed; pip install 'sam-engine[onnx]' brings all that export needs"
        ) from error
