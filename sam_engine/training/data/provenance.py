"""What a packed file was made of, so that no run trains on other data than its settings name."""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from sam_engine.checkpoints.download import file_sha256
from sam_engine.dataset.correction_log import CORRECTIONS_FOLDER
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX
from sam_engine.formats.ours import is_dataset
from sam_engine.inputs.folder import expand_braces
from sam_engine.training.config import DataConfig

SOURCES = ("sources", "region_sources")
PACKING = ("short_side", "jpeg_quality", "min_mask_pixels", "licences", "hold_out")
"""Settings that decide what is in a packed file, beside its sources."""


def made_of(config: DataConfig) -> dict[str, Any]:
    """Return what a packed file of these settings is made of, as it is written into the file."""
    found: dict[str, Any] = {
        key: [[Path(path).name, digest_of(Path(path))] for path in getattr(config, key)] for key in SOURCES
    }
    found |= {name: getattr(config, name) for name in PACKING}
    table = config.sources_csv if config.licences else None
    return found | {"sources_csv": table and digest_of(Path(table))}


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return in words how what a file is made of differs from what is wanted; nothing where it does not.

    Sources that are not on this machine are compared by name, as on one that has the packed file alone.
    """
    found = []
    for key, value in wanted.items():
        before = there.get(key)
        if key in SOURCES:
            found += _other_sources(key, before or [], value)
        elif before != value and not (key == "sources_csv" and value is None):
            found.append(f"{key} was {before!r} and is {value!r}")
    return found


def same_content(paths: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of a path and another that name the same file or folder, or hold the same bytes."""
    digests = [digest_of(Path(path)) for path in others]
    pairs = []
    for path in paths:
        digest = digest_of(Path(path))
        for other, other_digest in zip(others, digests, strict=True):
            if Path(path).resolve() == Path(other).resolve() or (digest and digest == other_digest):
                pairs.append((path, other))
    return pairs


def digest_of(path: Path) -> str | None:
    """Return the digest of a file's bytes, or of the names and sizes in a folder; None if there is neither.

    Of a glob or a range it is that of what matches.

    Of a dataset of ours only what annotations are read from counts: reports are written anew by every run.
    """
    if path.is_file():
        stat = path.stat()
        return _digest_of_file(path, stat.st_size, stat.st_mtime_ns)
    if not path.is_dir():
        matches = sorted(
            Path(name) for each in expand_braces(str(path)) for name in glob(each, recursive=True)
        )
        text = "".join(f"{match}\0{digest_of(match)}\n" for match in matches if match != path)
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest() if text else None
    tops = [path / ANNOTATIONS_PREFIX, path / CORRECTIONS_FOLDER] if is_dataset(path) else [path]
    digest = hashlib.sha256()
    for name, size in sorted(entry for top in tops for entry in _files_in(top, path)):
        digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


@functools.cache
def _digest_of_file(path: Path, size: int, mtime_ns: int) -> str:
    """Return the digest of a file that has this size and time; large files are named more than once."""
    return file_sha256(path)


def _files_in(folder: Path, root: Path) -> Iterator[tuple[str, int]]:
    """Yield name relative to the root and size of every file, at any depth."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(root)), path.stat().st_size


def _other_sources(key: str, there: list[list[str]], wanted: list[list[str]]) -> list[str]:
    """Return in words how sources differ."""
    before, now = [name for name, _ in there], [name for name, _ in wanted]
    if before != now:
        return [f"{key} were [{', '.join(before)}] and are [{', '.join(now)}]"]
    return [
        f"{name} in {key} is not the one that was packed"
        for (name, digest), (_, wanted_digest) in zip(there, wanted, strict=True)
        if digest and wanted_digest and digest != wanted_digest
    ]
