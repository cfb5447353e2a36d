"""What tests ask of inputs."""

from pathlib import Path

import pytest

from sam_engine.config import DecodeConfig
from sam_engine.dataset.manifest import build_manifest
from sam_engine.errors import ImageError, InputError
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import InputSource
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
        open_input(str(path)).list_files()
    return str(caught.value)
