"""Which input a path stands for: a folder, a glob, a list of paths, one image, Parquet, a tar or a video."""

import functools
import os

from sam_engine.errors import InputError
from sam_engine.inputs.folder import (
    GLOB,
    expand_braces,
    folder_input,
    glob_input,
    sample_photos,
    stat_existing,
    suggest,
    walk_csv,
    walk_list,
)
from sam_engine.inputs.many import CONTAINER_SUFFIXES, ManyInput, is_container, looks_like_tar, open_container
from sam_engine.inputs.source import URL, FileInput, InputSource, ListingRules, short_name
from sam_engine.storage.anywhere import is_file, open_file
from sam_engine.storage.place import is_object_url, join, split_url

_KINDS = "a folder, a glob, a list of paths (.txt, .csv), an image, a .parquet, a tar, a zip or a video"
_OTHER_KINDS = (
    (b"\x28\xb5\x2f\xfd", "compressed with zstd, which is not read: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive, which is not read: unpack it first"),
    (b"Rar!", "a rar archive, which is not read: unpack it first"),
    (b"PK\x03\x04", "a zip under another name: call it .zip"),
    (b"PAR1", "Parquet under another name: call it .parquet"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not downloaded"),
    (b"\x04\x22\x4d\x18", "compressed with lz4, which is not read: unpack it first"),
    (b"\x5d\x00\x00", "compressed with the old LZMA, which is not read: unpack it first"),
    (b"\x1f\x9d", "compressed with compress (.Z), which is not read: unpack it first"),
    (b"ARROW1", "an Arrow (Feather) file; write it as Parquet"),
    (b"SQLite format 3", "an SQLite database"),
    (b"MATLAB", "a MATLAB file"),
    (b"{", "JSON; images are looked for beside it, in their folder"),
    (b"%PDF", "a PDF"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
)


def open_input(spec: str | None, rules: ListingRules | None = None) -> InputSource:
    """Return the input that ``spec`` names. Nothing is listed yet.

    Args:
        spec: A path or a glob; None for the sample photos.
        rules: What to list; None for images.

    Raises:
        InputError: There is no such thing, or it is of a kind that is not read.
    """
    rules = rules or ListingRules()
    if spec is None:
        return sample_photos()
    if not spec:
        raise InputError(f"input is empty; give {_KINDS}")
    if is_object_url(spec):
        return _open_url(spec, rules)
    path = os.path.abspath(os.path.expanduser(spec) if spec.startswith("~") else spec)
    if os.path.isdir(path):
        return ManyInput(
            files=folder_input(path, rules.suffixes),
            containers=folder_input(path, CONTAINER_SUFFIXES),
            rules=rules,
        )
    if os.path.isfile(path):
        return _open_file(path, spec, rules)
    if os.path.lexists(path):
        raise InputError(f"input {spec!r} is neither a file nor a folder, or a link to nothing")
    if URL.match(spec):
        raise InputError(
            f"input {spec!r} is a URL of a kind that is not read (s3://, gs:// and az:// are); give {_KINDS}"
        )
    paths = expand_braces(path)
    if GLOB.search(spec) or len(paths) > 1:
        return ManyInput(
            files=glob_input(paths, spec, rules.suffixes),
            containers=glob_input(paths, spec, CONTAINER_SUFFIXES),
            rules=rules,
        )
    raise InputError(f"input {spec!r} does not exist{suggest(path)}; give {_KINDS}")


def _open_url(spec: str, rules: ListingRules) -> InputSource:
    """Return the input that the URL of an object, of all below one, or of a pattern of them stands for."""
    paths = expand_braces(spec)
    try:
        url = join(*split_url(spec))
    except ValueError as error:
        raise InputError(f"input: {error}") from error
    if GLOB.search(spec) or len(paths) > 1:
        return ManyInput(
            files=glob_input(paths, spec, rules.suffixes),
            containers=glob_input(paths, spec, CONTAINER_SUFFIXES),
            rules=rules,
        )
    if split_url(url)[1] and is_file(url):
        return _open_file(url, spec, rules)
    return ManyInput(
        files=folder_input(url, rules.suffixes), containers=folder_input(url, CONTAINER_SUFFIXES), rules=rules
    )


def _open_file(path: str, spec: str, rules: ListingRules) -> InputSource:
    """Return the input that one file stands for, by its extension."""
    folder, base = os.path.split(path)
    extension = os.path.splitext(base)[1].lower()
    if extension in rules.suffixes:
        walk = functools.partial(stat_existing, folder, (base,))
        return FileInput(name=short_name(path), root=folder, walk=walk, if_empty=f"{spec!r} has vanished")
    if extension in (".txt", ".csv"):
        walk = functools.partial(walk_csv if extension == ".csv" else walk_list, path)
        return FileInput(name=short_name(path), root=folder, walk=walk, if_empty=f"{spec!r} lists no paths")
    try:
        if is_container(os.fsencode(base)) or looks_like_tar(path):
            return open_container(path, rules)
        raise InputError(f"input {spec!r} is {_what_is(path)}; give {_KINDS}")
    except OSError as error:
        raise InputError(f"input {spec!r} cannot be read: {error.strerror}") from error


def _what_is(path: str) -> str:
    """Return what a file is that is not read, in words."""
    with open_file(path) as file:
        head = file.read(64)
    if not head:
        return "an empty file"
    if head.lstrip()[:1] == b"<":
        return "markup (HTML or XML), perhaps an error page in place of a download"
    unknown = "a file of an unknown kind"
    return next((words for magic, words in _OTHER_KINDS if head.startswith(magic)), unknown)
