"""An image's embedding as bytes, so that it is encoded once: safetensors with the image's sizes."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from sam_engine.errors import ConfigError
from sam_engine.files import write_atomically
from sam_engine.modeling.segmenter import ImageEmbedding

FORMAT = "sam_engine embedding 1"


def save_embedding(embedding: ImageEmbedding, path: str | Path) -> None:
    """Write an embedding, skip features included; ``path`` is there whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    write_atomically(Path(path), embedding_to_bytes(embedding))


def load_embedding(path: str | Path, device: str | torch.device = "cpu") -> ImageEmbedding:
    """Return what `save_embedding` wrote, on a device. It fits the model that made it, with the same weights.

    Raises:
        ConfigError: The file is damaged, or holds no embedding.
        OSError: It cannot be read.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigError(f"{path} is no embedding, or is damaged: {error}") from error
    return _to_embedding(tensors, metadata, str(path))


def embedding_to_bytes(embedding: ImageEmbedding, *, in_half: bool = False) -> bytes:
    """Return an embedding as the bytes of its file.

    Args:
        embedding: Of one image; what `Sam.prepare` added is left out.
        in_half: Store maps in float16, half the bytes. A map with values beyond its range stays as it is.
    """
    tensors = {"features": embedding.features}
    if embedding.skip_features is not None:
        tensors["skip_4"], tensors["skip_8"] = embedding.skip_features
    sizes = {"input_size": embedding.input_size, "original_size": embedding.original_size}
    metadata = {"format": FORMAT} | {name: json.dumps(size) for name, size in sizes.items()}
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if in_half:
        on_host = {name: _halved(tensor) for name, tensor in on_host.items()}
    return save(on_host, metadata)


def embedding_from_bytes(data: bytes, device: str | torch.device = "cpu") -> ImageEmbedding:
    """Return what `embedding_to_bytes` was given, in the dtype in which it was stored.

    Raises:
        ConfigError: The bytes are damaged, or hold no embedding.
    """
    try:
        tensors = load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise ConfigError(f"these bytes are no embedding, or are damaged: {error}") from error
    return _to_embedding(
        {name: tensor.to(device) for name, tensor in tensors.items()}, metadata, "the safetensors"
    )


def _halved(tensor: Tensor) -> Tensor:
    half = tensor.to(torch.float16)
    return half if bool(half.isfinite().all()) else tensor


def _to_embedding(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: str) -> ImageEmbedding:
    if metadata.get("format") != FORMAT or "features" not in tensors:
        raise ConfigError(f"{where} holds no embedding; wanted is a file that save_embedding wrote")
    skips = (tensors["skip_4"], tensors["skip_8"]) if "skip_4" in tensors else None
    input_height, input_width = json.loads(metadata["input_size"])
    height, width = json.loads(metadata["original_size"])
    return ImageEmbedding(
        features=tensors["features"],
        skip_features=skips,
        input_size=(input_height, input_width),
        original_size=(height, width),
    )
