"""What the user points at, as a listing of images and their bytes.

A folder, a glob, a list of paths, one image, a Parquet file, a tar or a video: told apart by `open_input`.
Paths are bytes everywhere, because that is what a file system has. The rules are in docs/images.md.
"""

import difflib
import fnmatch
import functools
import importlib.util
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError, InputError
from sam_engine.structures import ImageStatus, ManifestEntry

log = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEO_EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
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

_MAGIC = re.compile(r"[*?[]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_KINDS = "a folder, a glob, a list of paths (.txt), an image, a .parquet, a .tar or a video"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One listed image. Size and time are 0 where they cannot be known before reading."""

    path: bytes
    """POSIX path relative to the input's root."""
    size: int
    """Bytes."""
    mtime_ns: int


class InputSource(Protocol):
    """A listing and a way to read it. Picklable, so that workers can have it; cheap until it is used."""

    @property
    def name(self) -> str:
        """Short and printable, for naming outputs."""
        ...

    @property
    def root(self) -> str:
        """Absolute path that image paths are relative to."""
        ...

    def iter_files(self) -> Iterator[InputFile]:
        """Yield every image once, in no particular order, holding none of them.

        Raises:
            InputError: The input cannot be listed, or holds no images.
        """
        ...

    def list_files(self) -> list[InputFile]:
        """Return every image, sorted bytewise by path. Raises as `iter_files` does."""
        ...

    def read(self, entry: ManifestEntry, config: DecodeConfig) -> bytes:
        """Return the bytes of one image, read once.

        Raises:
            ImageError: VANISHED, CHANGED, UNREADABLE or TOO_LARGE.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class FileInput:
    """Images that are files below one root."""

    name: str
    root: str
    walk: Callable[[], Iterable[InputFile]]
    """Lists the files; a function of this module with its arguments bound, so that it pickles."""
    if_empty: str
    """What to say when there is none."""

    def iter_files(self) -> Iterator[InputFile]:
        """Yield every image once, in no particular order."""
        return refuse_empty(self.walk(), self.if_empty)

    def list_files(self) -> list[InputFile]:
        """Return every image, sorted bytewise by path."""
        return sorted(self.iter_files(), key=lambda file: file.path)

    def read(self, entry: ManifestEntry, config: DecodeConfig) -> bytes:
        """Return the file's bytes."""
        return read_file(os.path.join(os.fsencode(self.root), entry.path), entry, config)


def open_input(spec: str | None) -> InputSource:
    """Return the input that ``spec`` names. Nothing is listed yet.

    Args:
        spec: A path or a glob; None for the sample photos.

    Raises:
        InputError: There is no such thing, or it is of a kind that is not read.
    """
    if spec is None:
        return sample_photos()
    path = os.path.abspath(os.path.expanduser(spec) if spec.startswith("~") else spec)
    if not spec:
        raise InputError(f"input is empty; give {_KINDS}")
    if os.path.isdir(path):
        return _folder_input(path)
    if os.path.isfile(path):
        return _open_file(path, spec)
    if os.path.lexists(path):
        raise InputError(f"input {spec!r} is neither a file nor a folder, or a link to nothing")
    if _URL.match(spec):
        raise InputError(f"input {spec!r} is a URL; download it first and give {_KINDS}")
    if _MAGIC.search(spec):
        return _glob_input(path, spec)
    raise InputError(f"input {spec!r} does not exist{_suggest(path)}; give {_KINDS}")


def sample_photos() -> FileInput:
    """Return eight photographs that come with scikit-image.

    Raises:
        InputError: scikit-image is not installed.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise InputError(
            "no input given, and the sample photos need scikit-image: "
            "pip install 'sam-engine[demo]', or set input="
        )
    root = os.path.join(next(iter(found.submodule_search_locations)), "data")
    return FileInput(
        name="sample-photos",
        root=root,
        walk=functools.partial(_stat_existing, root, SAMPLE_PHOTOS),
        if_empty=f"the installed scikit-image has no photos in {root}; set input=",
    )


def read_file(path: bytes, entry: ManifestEntry, config: DecodeConfig) -> bytes:
    """Return a regular file's bytes if it is still the one in the manifest, in one pass and without blocking.

    Raises:
        ImageError: VANISHED, CHANGED, UNREADABLE or TOO_LARGE.
    """
    try:
        # O_NONBLOCK: opening a named pipe would otherwise wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(ImageStatus.VANISHED, "the file no longer exists") from None
    except (OSError, ValueError) as error:
        raise _unreadable(error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(ImageStatus.UNREADABLE, "not a regular file")
        refuse_large(status.st_size, config)
        if (status.st_size, status.st_mtime_ns) != (entry.size, entry.mtime_ns):
            raise ImageError(ImageStatus.CHANGED, _describe_change(status, entry))
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            data = _read_up_to(file.read, status.st_size + 1)
        if len(data) != status.st_size:
            message = f"{len(data)} bytes or more were read of a file of {status.st_size}"
            raise ImageError(ImageStatus.CHANGED, message)
    except OSError as error:
        raise _unreadable(error) from None
    finally:
        os.close(descriptor)
    return data


def refuse_large(size: int, config: DecodeConfig) -> None:
    """Raise `ImageError` TOO_LARGE for more bytes than the cap."""
    if size > config.max_file_bytes:
        message = f"{size} bytes are more than decode.max_file_bytes={config.max_file_bytes}"
        raise ImageError(ImageStatus.TOO_LARGE, message)


def refuse_empty(files: Iterable[InputFile], message: str) -> Iterator[InputFile]:
    """Yield the files; raise `InputError` if there was none."""
    is_empty = True
    for file in files:
        is_empty = False
        yield file
    if is_empty:
        raise InputError(message)


def is_image_name(name: bytes) -> bool:
    """Return whether a file name is visible and has an image extension, in any case."""
    return not name.startswith(b".") and os.fsdecode(os.path.splitext(name)[1]).lower() in IMAGE_EXTENSIONS


def short_name(path: str, *, keep_extension: bool = False) -> str:
    """Return the last component of a path, made printable and never empty."""
    base = os.path.basename(path)
    base = base if keep_extension else os.path.splitext(base)[0]
    return "".join(char if char.isprintable() else "_" for char in base) or "images"


def _folder_input(path: str) -> FileInput:
    """Return all images in a folder and below."""
    return FileInput(
        name=short_name(path, keep_extension=True),
        root=path,
        walk=functools.partial(_walk_folder, path, ()),
        if_empty=f"no images in {path!r} or below: looked for {', '.join(IMAGE_EXTENSIONS)} in any case, "
        "hidden files left out",
    )


def _glob_input(path: str, spec: str) -> FileInput:
    """Return the images below the part of the pattern that is fixed."""
    parts = path.split("/")
    fixed = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
    root = "/".join(parts[:fixed]) or "/"
    if not os.path.isdir(root):
        raise InputError(f"input {spec!r}: there is no folder {root!r}{_suggest(root)}")
    pattern = tuple(os.fsencode(part) for part in parts[fixed:])
    return FileInput(
        name=short_name(root, keep_extension=True),
        root=root,
        walk=functools.partial(_walk_folder, root, pattern),
        if_empty=f"no images match {spec!r}: looked for {', '.join(IMAGE_EXTENSIONS)}, hidden files left out",
    )


def _open_file(path: str, spec: str) -> InputSource:
    """Return the input that one file stands for, by its extension."""
    folder, base = os.path.split(path)
    extension = os.path.splitext(base)[1].lower()
    if extension in IMAGE_EXTENSIONS:
        walk = functools.partial(_stat_existing, folder, (base,))
        return FileInput(name=short_name(path), root=folder, walk=walk, if_empty=f"{spec!r} has vanished")
    if extension == ".txt":
        walk = functools.partial(_walk_list, path)
        return FileInput(name=short_name(path), root=folder, walk=walk, if_empty=f"{spec!r} lists no paths")
    # The other kinds bring pyarrow or OpenCV along, which most runs do not need here.
    if extension == ".tar":
        from sam_engine.inputs.containers import TarInput

        return TarInput(name=short_name(path), root=path)
    if extension == ".parquet":
        from sam_engine.inputs.containers import open_parquet

        return open_parquet(path)
    if extension in VIDEO_EXTENSIONS:
        from sam_engine.inputs.video import open_video

        return open_video(path)
    if base.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz", ".zip")):
        raise InputError(f"input {spec!r} is compressed, which allows no random access; unpack it first")
    raise InputError(f"input {spec!r} is a file of an unknown kind; give {_KINDS}")


def _walk_folder(root: str, pattern: tuple[bytes, ...]) -> Iterator[InputFile]:
    """Yield the images below a folder whose relative path matches, all if the pattern is empty.

    Links to folders are not followed, links to files only inside the root. Everything else with an image's
    name is listed, also if it will turn out to be unreadable: what is listed gets a row.
    """
    root_bytes = os.fsencode(root)
    real_root = os.path.realpath(root_bytes)
    max_depth = len(pattern) if pattern and b"**" not in pattern else None
    num_outside = 0
    folders: list[tuple[bytes, ...]] = [()]
    while folders:
        parts = folders.pop()
        folder = os.path.join(root_bytes, *parts)
        if os.path.isfile(os.path.join(folder, b"_meta", b"run.json")):
            if not parts:
                raise InputError(f"input {root!r} is a dataset made by this engine, not a folder of images")
            continue  # a run's own output, whose previews are no input
        try:
            with os.scandir(folder) as listing:
                for item in listing:
                    if item.name.startswith(b"."):
                        continue
                    path = (*parts, item.name)
                    if item.is_dir(follow_symlinks=False):
                        if max_depth is None or len(path) < max_depth:
                            folders.append(path)
                    elif is_image_name(item.name) and (not pattern or _matches(path, pattern)):
                        if item.is_symlink():
                            if os.path.isdir(item.path):
                                continue
                            if not _is_inside(os.path.realpath(item.path), real_root):
                                num_outside += 1
                                continue
                        yield stat_file(item.path, b"/".join(path))
        except OSError as error:
            raise InputError(f"input: cannot list {os.fsdecode(folder)!r}: {error.strerror}") from error
    if num_outside:
        log.warning("%d links in %r lead out of it and were left out", num_outside, root)


def _walk_list(list_path: str) -> Iterator[InputFile]:
    """Yield the paths of a list file as they are written there, one a line; also those that do not exist."""
    folder = os.path.dirname(os.fsencode(list_path))
    try:
        with open(list_path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                path = line.rstrip(b"\r\n")
                if not path.strip():
                    continue
                if b"\0" in path or _URL.match(os.fsdecode(path)):
                    raise InputError(
                        f"input {list_path!r}, line {number}: {os.fsdecode(path)!r} is not a path"
                    )
                yield stat_file(os.path.join(folder, path), path)
    except OSError as error:
        raise InputError(f"input: cannot read {list_path!r}: {error.strerror}") from error


def _stat_existing(root: str, names: Iterable[str]) -> Iterator[InputFile]:
    """Yield those of the named files that exist."""
    for name in names:
        if os.path.isfile(os.path.join(root, name)):
            yield stat_file(os.fsencode(os.path.join(root, name)), os.fsencode(name))


def stat_file(absolute: bytes, path: bytes) -> InputFile:
    """Return the listing of one path; zeros where there is nothing any more."""
    for look in (os.stat, os.lstat):
        try:
            status = look(absolute)
        except OSError:
            continue
        return InputFile(path=path, size=status.st_size, mtime_ns=status.st_mtime_ns)
    return InputFile(path=path, size=0, mtime_ns=0)


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


def _suggest(path: str) -> str:
    """Return a hint at a neighbour with a similar name, or nothing."""
    folder, base = os.path.split(path)
    try:
        close = difflib.get_close_matches(base, os.listdir(folder), n=1)
    except OSError:
        return f" (nor does {folder!r})" if not os.path.exists(folder) else ""
    return f" (did you mean {close[0]!r}?)" if close else ""


def _read_up_to(read: Callable[[int], bytes | None], num_bytes: int) -> bytes:
    """Return what repeated reads give until the end or ``num_bytes``."""
    data = read(num_bytes) or b""
    if len(data) >= num_bytes - 1:
        return data  # the usual case: the whole file at once, no copy
    chunks = [data]
    while data and sum(map(len, chunks)) < num_bytes:
        data = read(num_bytes - sum(map(len, chunks))) or b""
        chunks.append(data)
    return b"".join(chunks)


def _unreadable(error: Exception) -> ImageError:
    """Return the error for bytes that cannot be had."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ImageError(ImageStatus.UNREADABLE, f"cannot be read: {reason}")


def _describe_change(status: os.stat_result, entry: ManifestEntry) -> str:
    """Return what differs from the manifest."""
    if status.st_size != entry.size:
        return f"{status.st_size} bytes now, {entry.size} when it was listed"
    return "modified since it was listed"
