"""The split decoder of a model as ONNX files for browsers, written once for its weights and kept."""

import functools
import hashlib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from sam_engine.config import ModelConfig

NAMES = ("image", "prompt")
"""Of the two graphs: what runs once an image, and what runs for each prompt."""


def can_export() -> bool:
    """Return whether the extra ``onnx`` is installed."""
    return all(find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def decoder_files(config: ModelConfig, weights: str, folder: Path) -> dict[str, Path]:
    """Return the file of each graph of `NAMES`, which are written and checked against torch if need be.

    Args:
        config: The model.
        weights: What tells its weights from others.
        folder: Where they are kept.

    Raises:
        ConfigError: The extra ``onnx`` is not installed.
        ExportError: What was written does not answer as the model does.
        StorageError: It cannot be written.
    """
    key = hashlib.sha256(f"{weights}\n{_code()}".encode()).hexdigest()[:16]
    files = {name: folder / f"{config.name}-{key}-{name}.onnx" for name in NAMES}
    if not all(path.is_file() for path in files.values()):
        from sam_engine.build_sam import load_model
        from sam_engine.modeling.onnx_file import export_split

        sam = load_model(replace(config, device="cpu", precision="fp32"))
        folder.mkdir(parents=True, exist_ok=True)
        export_split(sam, folder / f"{config.name}-{key}.onnx")
    return files


@functools.cache
def _code() -> str:
    """Return a digest of the code that graphs are made from: other code makes other files."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parents[1] / "modeling").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
