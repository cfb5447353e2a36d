"""Which input a path stands for: a folder, a glob, a list of paths, one image, Parquet, a tar or a video."""

import functools
import os
from collections.abc import Callable

from sam_engine.errors import InputError
from sam_engine.inputs.folder import (
    GLOB,
    URL,
    folder_input,
    glob_input,
    sample_photos,
    stat_existing,
    suggest,
    walk_list,
)
from sam_engine.inputs.source import FileInput, InputSource, ListingRules, short_name

VIDEO_EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
_KINDS = "a folder, a glob, a list of paths (.txt), an image, a .parquet, a .tar or a video"


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
    path = os.path.abspath(os.path.expanduser(spec) if spec.startswith("~") else spec)
    if not spec:
        raise InputError(f"input is empty; give {_KINDS}")
    if os.path.isdir(path):
        return folder_input(path, rules)
    if os.path.isfile(path):
        return _open_file(path, spec, rules)
    if os.path.lexists(path):
        raise InputError(f"input {spec!r} is neither a file nor a folder, or a link to nothing")
    if URL.match(spec):
        raise InputError(f"input {spec!r} is a URL; download it first and give {_KINDS}")
    if GLOB.search(spec):
        return glob_input(path, spec, rules)
    raise InputError(f"input {spec!r} does not exist{suggest(path)}; give {_KINDS}")


def _open_file(path: str, spec: str, rules: ListingRules) -> InputSource:
    """Return the input that one file stands for, by its extension."""
    extension = os.path.splitext(path)[1].lower()
    if extension in rules.suffixes:
        return _open_image(path)
    if extension in BY_EXTENSION:
        return BY_EXTENSION[extension](path, rules)
    if path.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz", ".zip")):
        raise InputError(f"input {spec!r} is compressed, which allows no random access; unpack it first")
    raise InputError(f"input {spec!r} is a file of an unknown kind; give {_KINDS}")


def _open_image(path: str) -> InputSource:
    """Return the input that is one image."""
    folder, base = os.path.split(path)
    walk = functools.partial(stat_existing, folder, (base,))
    return FileInput(name=short_name(path), root=folder, walk=walk, if_empty=f"{path!r} has vanished")


def _open_list(path: str, _rules: ListingRules) -> InputSource:
    """Return the input that a list of paths names."""
    walk = functools.partial(walk_list, path)
    return FileInput(
        name=short_name(path), root=os.path.dirname(path), walk=walk, if_empty=f"{path!r} lists no paths"
    )


# The other kinds bring pyarrow or OpenCV along, which most runs do not need here.


def _open_tar(path: str, rules: ListingRules) -> InputSource:
    """Return the input in a tar."""
    from sam_engine.inputs.tar import TarInput

    return TarInput(name=short_name(path), root=path, rules=rules)


def _open_parquet(path: str, _rules: ListingRules) -> InputSource:
    """Return the input in a Parquet file."""
    from sam_engine.inputs.parquet import open_parquet

    return open_parquet(path)


def _open_video(path: str, rules: ListingRules) -> InputSource:
    """Return the input in a video."""
    from sam_engine.inputs.video import open_video

    return open_video(path, rules)


BY_EXTENSION: dict[str, Callable[[str, ListingRules], InputSource]] = {
    ".txt": _open_list,
    ".tar": _open_tar,
    ".parquet": _open_parquet,
    **dict.fromkeys(VIDEO_EXTENSIONS, _open_video),
}
"""What opens a file that is no image, given its absolute path and what is listed of it."""
