"""What tests ask of inputs."""

import os
from pathlib import Path

import pytest

from sam_engine.config import DecodeConfig
from sam_engine.dataset.manifest import build_manifest
from sam_engine.errors import ImageError, InputError
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import InputSource, sorted_files
from sam_engine.structures import ImageStatus, ManifestEntry


def entries(source: InputSource) -> list[ManifestEntry]:
    manifest = build_manifest(source.iter_files())
    return manifest.entries(0, len(manifest))


def read_status(source: InputSource, entry: ManifestEntry) -> ImageStatus:
    with pytest.raises(ImageError) as caught:
        source.read(entry, DecodeConfig())
    return caught.value.status


def refusal(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        sorted_files(open_input(str(path)))
    return str(caught.value)


def put(folder: Path, *names: bytes | str, data: bytes = b"image") -> None:
    """Create files with any names, and the folders they need."""
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


def listed(spec: Path | str) -> list[bytes]:
    """Return the paths that an input lists."""
    return [file.path for file in sorted_files(open_input(str(spec)))]


def read_failure(source: InputSource, entry: ManifestEntry, **settings: object) -> ImageError:
    """Return what reading an entry raises."""
    with pytest.raises(ImageError) as caught:
        source.read(entry, DecodeConfig(**settings))
    return caught.value
