"""An image's embedding as a file, so that it is encoded once: safetensors with the image's sizes."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sam_engine.errors import ConfigError
from sam_engine.files import write_atomically
from sam_engine.modeling.segmenter import ImageEmbedding

FORMAT = "sam_engine embedding 1"


def save_embedding(embedding: ImageEmbedding, path: str | Path) -> None:
    """Write an embedding, skip features included; ``path`` is there whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    tensors = {"features": embedding.features}
    if embedding.skip_features is not None:
        tensors["skip_4"], tensors["skip_8"] = embedding.skip_features
    sizes = {"input_size": embedding.input_size, "original_size": embedding.original_size}
    metadata = {"format": FORMAT} | {name: json.dumps(size) for name, size in sizes.items()}
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(Path(path), save(on_host, metadata))


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
    if metadata.get("format") != FORMAT or "features" not in tensors:
        raise ConfigError(f"{path} holds no embedding; wanted is a file that save_embedding wrote")
    skips = (tensors["skip_4"], tensors["skip_8"]) if "skip_4" in tensors else None
    input_height, input_width = json.loads(metadata["input_size"])
    height, width = json.loads(metadata["original_size"])
    return ImageEmbedding(
        features=tensors["features"],
        skip_features=skips,
        input_size=(input_height, input_width),
        original_size=(height, width),
    )
