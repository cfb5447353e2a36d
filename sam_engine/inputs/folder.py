"""Images that lie as files or objects: below a folder, matching a glob, in a list, or scikit-image's."""

import codecs
import dataclasses
import difflib
import fnmatch
import functools
import importlib.util
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from sam_engine.errors import InputError, StorageError
from sam_engine.inputs.source import (
    Account,
    FileInput,
    InputFile,
    located,
    looked_for,
    refuse_no_path,
    short_name,
    stat_file,
    why_left_out,
)
from sam_engine.storage.anywhere import exists, is_file, open_file
from sam_engine.storage.bucket import Bucket
from sam_engine.storage.place import is_object_url, join, split_url
from sam_engine.structures import UNKNOWN_ORIGIN

SAMPLE_PHOTOS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
)
"""Photographs that lie in scikit-image's wheel; nothing is downloaded."""
GLOB = re.compile(r"[*?[]")
_BRACES = re.compile(r"\{(-?\d+\.\.-?\d+|[^{}/]*,[^{}/]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
MAX_RANGE = 100_000
OBJECTS_AT_ONCE = 32
"""Asked for by as many threads, where a list names objects."""
_OF_DATASETS = {"previews", "annotations"}
"""Folders of a dataset of ours in which images are, or what looks like a container of them."""


def sample_photos() -> FileInput:
    """Return eight photographs that come with scikit-image.

    Raises:
        InputError: scikit-image is not installed.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise InputError(
            "no input given, and the sample photos need scikit-image: pip install scikit-image, or set input="
        )
    root = os.path.join(next(iter(found.submodule_search_locations)), "data")
    return FileInput(
        name="sample-photos",
        root=root,
        walk=functools.partial(stat_existing, root, SAMPLE_PHOTOS),
        if_empty=f"the installed scikit-image has no photos in {root}; set input=",
    )


def folder_input(path: str, suffixes: tuple[str, ...]) -> FileInput:
    """Return all files in a folder and below that have one of the suffixes."""
    walk = _walk_objects if is_object_url(path) else _walk_folder
    return FileInput(
        name=short_name(path, keep_extension=True),
        root=path,
        walk=functools.partial(walk, path, (), suffixes),
        if_empty=f"no images in {path!r} or below: {looked_for(suffixes)} in any case, hidden files left out",
    )


def glob_input(paths: Sequence[str], spec: str, suffixes: tuple[str, ...]) -> FileInput:
    """Return the files with one of the suffixes that match one of several patterns.

    Args:
        paths: The patterns, absolute or URLs; one without magic characters is a path that must be there.
        spec: What the user wrote.
        suffixes: To look for.

    Raises:
        InputError: A path is not there, or the folder that all patterns start with.
    """
    is_local = not is_object_url(spec)
    missing = [path for path in paths if is_local and not GLOB.search(path) and not os.path.lexists(path)]
    if missing:
        count = f"{len(missing)} of {len(paths)}"
        raise InputError(f"input {spec!r}: {count} are not there, the first is {missing[0]!r}")
    split = [[*path.split("/"), *(["**", "*"] if _is_folder(path) else [])] for path in paths]
    fixed = min(_num_fixed(parts) for parts in split)
    while any(parts[:fixed] != split[0][:fixed] for parts in split):
        fixed -= 1
    root = "/".join(split[0][:fixed]) or "/"
    if not is_local and fixed < len(["s3:", "", "bucket"]):
        raise InputError(f"input {spec!r}: the patterns are of several buckets; give one input each")
    if is_local and not os.path.isdir(root):
        raise InputError(f"input {spec!r}: there is no folder {root!r}{suggest(root)}")
    patterns = tuple(tuple(os.fsencode(part) for part in parts[fixed:]) for parts in split)
    return FileInput(
        name=short_name(root, keep_extension=True),
        root=root,
        walk=functools.partial(_walk_folder if is_local else _walk_objects, root, patterns, suffixes),
        if_empty=f"no images match {spec!r}: {looked_for(suffixes)}, hidden files left out",
    )


def expand_braces(spec: str) -> list[str]:
    """Return what ``{a,b}`` and ``{000..012}`` in a path stand for, as a shell does; itself without any."""
    match = _BRACES.search(spec)
    if match is None:
        return [spec]
    before, after = spec[: match.start()], expand_braces(spec[match.end() :])
    return [before + choice + rest for choice in _choices(match[1]) for rest in after]


def _choices(text: str) -> list[str]:
    """Return the alternatives of one pair of braces."""
    numbers = _RANGE.fullmatch(text)
    if numbers is None:
        return text.split(",")
    first, last = int(numbers[1]), int(numbers[2])
    if abs(last - first) >= MAX_RANGE:
        raise InputError(f"input: {{{text}}} stands for more than {MAX_RANGE:,} names")
    width = max(len(numbers[1]), len(numbers[2])) if "0" in (numbers[1][0], numbers[2][0]) else 0
    step = 1 if last >= first else -1
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]


def _num_fixed(parts: Sequence[str]) -> int:
    """Return how many components of a path are above the file and hold no magic."""
    return next((index for index, part in enumerate(parts[:-1]) if GLOB.search(part)), len(parts) - 1)


def _walk_folder(
    root: str, patterns: tuple[tuple[bytes, ...], ...], suffixes: tuple[str, ...], account: Account
) -> Iterator[InputFile]:
    """Yield the files below a folder whose relative path matches a pattern, all if there is none.

    Links to folders are not followed, links to files only inside the root. Everything else with an image's
    name is listed, also if it will turn out to be unreadable: what is listed gets a row. What is passed over
    is counted by its reason; with a pattern, only of what matches it.
    """
    root_bytes = os.fsencode(root)
    real_root = os.path.realpath(root_bytes)
    is_deep = not patterns or any(b"**" in pattern for pattern in patterns)
    max_depth = None if is_deep else max(len(pattern) for pattern in patterns)
    folders: list[tuple[bytes, ...]] = [()]
    while folders:
        parts = folders.pop()
        folder = os.path.join(root_bytes, *parts)
        if os.path.isfile(os.path.join(folder, b"_meta", b"run.json")):
            if not parts:
                raise InputError(f"input {root!r} is a dataset made by this engine, not a folder of images")
            account.leave_out("folders that are datasets of this engine")
            continue  # whose previews are no input
        try:
            with os.scandir(folder) as listing:
                for item in listing:
                    path = (*parts, item.name)
                    is_folder = item.is_dir(follow_symlinks=False)
                    if is_folder and not item.name.startswith(b"."):
                        if max_depth is None or len(path) < max_depth:
                            folders.append(path)
                    elif not patterns or any(_matches(path, pattern) for pattern in patterns):
                        reason = _why_not(item, is_folder, real_root, suffixes)
                        if reason is None:
                            yield stat_file(item.path, b"/".join(path))
                        else:
                            account.leave_out(reason)
        except OSError as error:
            raise InputError(f"input: cannot list {os.fsdecode(folder)!r}: {error.strerror}") from error


def _walk_objects(
    root: str, patterns: tuple[tuple[bytes, ...], ...], suffixes: tuple[str, ...], account: Account
) -> Iterator[InputFile]:
    """Yield the objects below a URL as `_walk_folder` yields files, from one listing.

    What lies in folders as a dataset of ours has them is held back until it is known not to be of one.
    """
    bucket, folder = split_url(root)
    held: list[tuple[tuple[str, ...], InputFile]] = []
    datasets: set[tuple[str, ...]] = set()
    try:
        if is_file(join(root, "_meta/run.json")):
            raise InputError(f"input {root!r} is a dataset made by this engine, not a folder of images")
        for each in Bucket(bucket).scan(folder):
            name = each.name.removeprefix(f"{folder}/") if folder else each.name
            parts = tuple(name.split("/"))
            if parts[-2:] == ("_meta", "run.json"):
                datasets.add(parts[:-2])
            path = tuple(os.fsencode(part) for part in parts)
            if patterns and not any(_matches(path, pattern) for pattern in patterns):
                continue
            is_hidden = any(part.startswith(".") for part in parts[:-1])
            if reason := "hidden folders" if is_hidden else why_left_out(path[-1], suffixes):
                account.leave_out(reason)
                continue
            file = InputFile(path=b"/".join(path), size=each.size, mtime_ns=round(each.modified * 1e9))
            if _OF_DATASETS.isdisjoint(parts):
                yield file
            else:
                held.append((parts, file))
    except (StorageError, FileNotFoundError) as error:
        raise InputError(f"input: cannot list {root!r}: {error}") from error
    for parts, file in held:
        if any(parts[:depth] in datasets for depth in range(len(parts))):
            account.leave_out("files in datasets of this engine")
        else:
            yield file


def matching_objects(patterns: Sequence[str]) -> list[str]:
    """Return the URLs of the objects that some URLs name, or match by ``*``, ``?`` or ``[``, sorted.

    Raises:
        StorageError, ConfigError: They cannot be listed.
    """
    found = set()
    for pattern in patterns:
        if not GLOB.search(pattern):
            found |= {pattern} if is_file(pattern) else set()
            continue
        parts = pattern.split("/")
        root = "/".join(parts[: max(_num_fixed(parts), len(["s3:", "", "bucket"]))])
        wanted = tuple(os.fsencode(part) for part in parts[root.count("/") + 1 :])
        bucket, folder = split_url(root)
        for each in Bucket(bucket).scan(folder):
            name = each.name.removeprefix(f"{folder}/") if folder else each.name
            if _matches(tuple(os.fsencode(part) for part in name.split("/")), wanted):
                found.add(join(root, name))
    return sorted(found)


def _is_folder(path: str) -> bool:
    """Return whether a path without magic is a folder; of a URL, whether no object has that name."""
    if GLOB.search(path):
        return False
    return not exists(path) if is_object_url(path) else os.path.isdir(path)


def stat_files(folder: bytes, names: Iterable[bytes]) -> Iterator[InputFile]:
    """Yield the listing of each name, relative to a folder, in order; objects are asked for side by side."""
    with ThreadPoolExecutor(OBJECTS_AT_ONCE) as pool:
        for some in _batched(names, 32 * OBJECTS_AT_ONCE):
            places = [located(folder, name) for name in some]
            is_remote = any(is_object_url(os.fsdecode(place)) for place in places)
            yield from (pool.map if is_remote else map)(stat_file, places, some)


def _batched(names: Iterable[bytes], count: int) -> Iterator[list[bytes]]:
    """Yield the names in lists of at most ``count``."""
    remaining = iter(names)
    return iter(lambda: list(itertools.islice(remaining, count)), [])


def _why_not(
    item: "os.DirEntry[bytes]", is_folder: bool, real_root: bytes, suffixes: tuple[str, ...]
) -> str | None:
    """Return why something in a folder is not listed; None if it is."""
    if is_folder:
        return "hidden folders"
    if item.is_symlink() and not item.name.startswith(b"."):
        if os.path.isdir(item.path):
            return "links to folders"
        reason = why_left_out(item.name, suffixes)
        return reason or (None if _is_inside(os.path.realpath(item.path), real_root) else "links out of it")
    return why_left_out(item.name, suffixes)


def walk_list(list_path: str, _account: Account) -> Iterator[InputFile]:
    """Yield the paths of a list file as they are written there, one a line; also those that do not exist."""
    return stat_files(os.path.dirname(os.fsencode(list_path)), _paths_in(list_path))


def _paths_in(list_path: str) -> Iterator[bytes]:
    """Yield the lines of a list file that name something."""
    try:
        for number, path in enumerate(_read_lines(list_path), 1):
            if path.strip():
                refuse_no_path(path, f"input {list_path!r}, line {number}")
                yield path
    except UnicodeError as error:
        raise InputError(f"input: {list_path!r} begins as UTF-16 does, and is not ({error})") from error
    except OSError as error:
        raise InputError(f"input: cannot read {list_path!r}: {error.strerror}") from error


def _read_lines(list_path: str) -> Iterator[bytes]:
    """Yield the lines of a text file as file systems spell paths: as they are, of UTF-16 as UTF-8."""
    with open_file(list_path) as file:
        start = file.read(3)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            file.seek(0)
            with io.TextIOWrapper(file, encoding="utf-16") as lines:
                yield from (os.fsencode(line.rstrip("\n")) for line in lines)
            return
        file.seek(3 if start == codecs.BOM_UTF8 else 0)
        yield from (line.rstrip(b"\r\n") for line in file)


def walk_csv(list_path: str, _account: Account) -> Iterator[InputFile]:
    """Yield the files that a CSV with a header names, with what its other columns say of their origin."""
    import pyarrow as pa  # most runs need it only later

    from sam_engine.inputs.origins import PATH_NAMES, origin_columns, origins_of, read_csv

    try:
        table = read_csv(list_path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"input {list_path!r} is not a readable CSV file: {reason}") from error
    named = next((name for name in PATH_NAMES if name in table.column_names), None)
    if named is None:
        raise InputError(
            f"input {list_path!r} has columns {', '.join(table.column_names)}; the files are looked for in "
            + ", ".join(PATH_NAMES)
        )
    columns, folder = origin_columns(table.schema), os.path.dirname(os.fsencode(list_path))
    for batch in table.to_batches():
        origins = origins_of(batch, columns) if columns else itertools.repeat(UNKNOWN_ORIGIN)
        names = []
        for path in batch.column(named).to_pylist():
            if not path:
                raise InputError(f"input {list_path!r}: a row of column {named!r} names no file")
            names.append(os.fsencode(path))
            refuse_no_path(names[-1], f"input {list_path!r}: column {named!r}")
        for file, origin in zip(stat_files(folder, names), origins, strict=False):
            yield dataclasses.replace(file, origin=origin)


def stat_existing(root: str, names: Iterable[str], _account: Account) -> Iterator[InputFile]:
    """Yield those of the named files that exist."""
    for name in names:
        if is_file(os.path.join(root, name)):
            yield stat_file(os.fsencode(os.path.join(root, name)), os.fsencode(name))


def _matches(path: tuple[bytes, ...], pattern: tuple[bytes, ...]) -> bool:
    """Return whether a path matches a glob by components; ``**`` stands for any number of folders."""
    if not pattern:
        return not path
    if pattern[0] == b"**":
        return any(_matches(path[skip:], pattern[1:]) for skip in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _is_inside(path: bytes, root: bytes) -> bool:
    """Return whether a resolved path lies below a resolved root."""
    return path.startswith(root.rstrip(b"/") + b"/")


def suggest(path: str) -> str:
    """Return a hint at a neighbour with a similar name, or nothing."""
    folder, base = os.path.split(path)
    try:
        close = difflib.get_close_matches(base, os.listdir(folder), n=1)
    except OSError:
        return f" (nor does {folder!r})" if not os.path.exists(folder) else ""
    return f" (did you mean {close[0]!r}?)" if close else ""
