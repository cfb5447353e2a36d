"""What a packed file was made of, so that no run trains on other data than its settings name."""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from sam_engine.checkpoints.download import file_sha256
from sam_engine.dataset.correction_log import CORRECTIONS_FOLDER
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX
from sam_engine.formats.ours import is_dataset
from sam_engine.inputs.folder import expand_braces
from sam_engine.inputs.many import is_container
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
    """Return the pairs of a path and another that have a file, its bytes or a folder in common."""
    return [
        (path, other)
        for path in paths
        for other in others
        if _overlap(_places_of(Path(path)), _places_of(Path(other))) or _is_copy(Path(path), Path(other))
    ]


def _is_copy(path: Path, other: Path) -> bool:
    """Return whether two folders hold the same files."""
    return path.is_dir() and other.is_dir() and digest_of(path) == digest_of(other)


def _places_of(path: Path) -> set[Path]:
    """Return the files and folders that a source is read from, and the containers in its folders."""
    places: set[Path] = set()
    for match in [path] if path.exists() else _matches(path):
        inside = match.rglob("*") if _is_folder(match) else ()
        places |= {match.resolve(), *(each.resolve() for each in inside if is_container(bytes(each)))}
    return places


def _is_folder(path: Path) -> bool:
    """Return whether a path is a folder of files, and not a dataset, which is none to those that list it."""
    return path.is_dir() and not is_dataset(path)


def _overlap(places: set[Path], others: set[Path]) -> bool:
    """Return whether they have a place in common, a folder of one lies in the other, or a file is a copy."""
    for one, two in ((places, others), (others, places)):
        inside = {parent for place in one if _is_folder(place) for parent in place.parents}
        if not two.isdisjoint(one | inside):
            return True
    by_size = defaultdict(list)
    for place in places:
        if place.is_file():
            by_size[place.stat().st_size].append(place)
    return any(
        digest_of(place) == digest_of(other)
        for other in others
        if other.is_file()
        for place in by_size.get(other.stat().st_size, ())
    )


def digest_of(path: Path) -> str | None:
    """Return the digest of a file's bytes, or of the names and sizes in a folder; None if there is neither.

    Of a glob or a range it is that of what matches.

    Of a dataset of ours only what annotations are read from counts: reports are written anew by every run.
    """
    if path.is_file():
        stat = path.stat()
        return _digest_of_file(path, stat.st_size, stat.st_mtime_ns)
    if not path.is_dir():
        text = "".join(f"{match}\0{digest_of(match)}\n" for match in _matches(path))
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest() if text else None
    tops = [path / ANNOTATIONS_PREFIX, path / CORRECTIONS_FOLDER] if is_dataset(path) else [path]
    digest = hashlib.sha256()
    for name, size in sorted(entry for top in tops for entry in _files_in(top, path)):
        digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _matches(path: Path) -> list[Path]:
    """Return what a glob or a range matches."""
    names = (name for each in expand_braces(str(path)) for name in glob(each, recursive=True))
    return sorted(Path(name) for name in names if Path(name) != path)


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
