"""What a packed file was made of, so that no run trains on other data than its settings name.

A source is a file, a folder, or what a pattern matches, on this machine or in an object store.
"""

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from sam_engine.dataset.correction_log import CORRECTIONS_FOLDER
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX
from sam_engine.formats.ours import is_dataset
from sam_engine.inputs.folder import expand_braces, matching_objects
from sam_engine.inputs.many import is_container
from sam_engine.storage.anywhere import exists, is_file, open_file, status_of
from sam_engine.storage.open import open_store
from sam_engine.storage.place import absolute, is_object_url, join
from sam_engine.training.config import DataConfig

SOURCES = ("sources", "region_sources")
PACKING = ("short_side", "jpeg_quality", "min_mask_pixels", "licences", "hold_out")
"""Settings that decide what is in a packed file, beside its sources."""


def made_of(config: DataConfig) -> dict[str, Any]:
    """Return what a packed file of these settings is made of, as it is written into the file."""
    found: dict[str, Any] = {
        key: [[Path(path).name, digest_of(path)] for path in getattr(config, key)] for key in SOURCES
    }
    found |= {name: getattr(config, name) for name in PACKING}
    table = config.sources_csv if config.licences else None
    return found | {"sources_csv": table and digest_of(table)}


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
        if _overlap(_places_of(path), _places_of(other)) or _is_copy(path, other)
    ]


def _is_copy(path: str, other: str) -> bool:
    """Return whether two folders hold the same files."""
    return _is_folder(path) and _is_folder(other) and digest_of(path) == digest_of(other)


def _places_of(path: str) -> set[str]:
    """Return the files and folders that a source is read from, and the containers in its folders."""
    places: set[str] = set()
    for match in [path] if exists(path) or _is_folder(path) else _matches(path):
        is_listed = _is_folder(match) and not is_dataset(match)
        inside = [join(match, name) for name, _ in _files_in(match)] if is_listed else []
        places |= {_real(match), *(_real(each) for each in inside if is_container(os.fsencode(each)))}
    return places


def _real(place: str) -> str:
    """Return the one name of a place; links of this machine are followed."""
    return absolute(place) if is_object_url(place) else os.path.realpath(place)


def _is_folder(place: str) -> bool:
    """Return whether there are files below a place."""
    if not is_object_url(place):
        return os.path.isdir(place)
    return not is_file(place) and bool(open_store(place).list("", 1))


def _overlap(places: set[str], others: set[str]) -> bool:
    """Return whether they have a place in common, a folder of one lies in the other, or a file is a copy."""
    for one, two in ((places, others), (others, places)):
        folders = [place for place in one if _is_folder(place) and not is_dataset(place)]
        if not two.isdisjoint(one.union(*map(_folders_above, folders))):
            return True
    by_size = defaultdict(list)
    for place in filter(is_file, places):
        by_size[status_of(place).size].append(place)
    return any(
        _sha256_of(place) == _sha256_of(other)
        for other in filter(is_file, others)
        for place in by_size.get(status_of(other).size, ())
    )


def _folders_above(place: str) -> set[str]:
    """Return the folders that a folder lies in."""
    parts = place.split("/")
    return {"/".join(parts[:depth]) or "/" for depth in range(1, len(parts))}


def digest_of(path: str | Path) -> str | None:
    """Return the digest of a file's bytes, or of the names and sizes in a folder; None if there is neither.

    Of a glob or a range it is that of what matches. Of an object it is that of its size and its time: to read
    it for this would take as long as to pack it.

    Of a dataset of ours only what annotations are read from counts: reports are written anew by every run.

    Raises:
        StorageError, ConfigError: An object store fails, or refuses.
    """
    place = os.fspath(path)
    if is_file(place):
        if not is_object_url(place):
            return _sha256_of(place)
        status = status_of(place)
        return hashlib.sha256(f"{status.size}\0{status.mtime_ns}".encode()).hexdigest()
    if not _is_folder(place):
        text = "".join(f"{match}\0{digest_of(match)}\n" for match in _matches(place))
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest() if text else None
    tops = (ANNOTATIONS_PREFIX, f"{CORRECTIONS_FOLDER}/") if is_dataset(place) else ("",)
    digest = hashlib.sha256()
    for name, size in sorted(entry for top in tops for entry in _files_in(place, top)):
        digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _matches(path: str) -> list[str]:
    """Return what a glob or a range matches."""
    if is_object_url(path):
        return [url for url in matching_objects(expand_braces(path)) if url != path]
    names = (name for each in expand_braces(path) for name in glob(each, recursive=True))
    return sorted(name for name in names if name != path)


def _sha256_of(place: str) -> str:
    """Return the digest of a file's bytes; large files are named more than once."""
    status = status_of(place)
    return _digest_of_bytes(place, status.size, status.mtime_ns)


@functools.cache
def _digest_of_bytes(place: str, size: int, mtime_ns: int) -> str:
    """Return the digest of a file that has this size and time."""
    with open_file(place) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_in(folder: str, below: str = "") -> Iterator[tuple[str, int]]:
    """Yield name relative to the folder and size of every file, at any depth below a part of it."""
    for each in open_store(folder).scan(below):
        yield each.name, each.size


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
