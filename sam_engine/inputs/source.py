"""What every input is: a listing of images and a way to read one, and what the kinds of input share.

Paths are bytes everywhere, because that is what a file system has. The rules are in docs/images.md.
"""

import contextlib
import errno
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from sam_engine.config import DecodeConfig, VideoConfig
from sam_engine.errors import ConfigError, ImageError, InputError
from sam_engine.storage.anywhere import recent_status_of, status_of, storage_as_os_error
from sam_engine.storage.bucket import Bucket
from sam_engine.storage.place import is_object_url, split_url
from sam_engine.structures import UNKNOWN_ORIGIN, ImageStatus, ManifestEntry, Origin

log = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (
    ".apng",
    ".avif",
    ".bmp",
    ".dib",
    ".gif",
    ".jfif",
    ".jif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".mpo",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
)
RAW_EXTENSIONS = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".gpr", ".iiq", ".kdc", ".mos", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
"""Raw files of cameras. They look like TIFF, and the image that a decoder finds first is a thumbnail."""
UNREAD_EXTENSIONS = (
    *RAW_EXTENSIONS,
    *(".bpg", ".dcm", ".dds", ".djvu", ".emf", ".eps", ".exr", ".fits", ".flif", ".hdr", ".heic", ".heif"),
    *(".hif", ".ico", ".j2c", ".j2k", ".jls", ".jng", ".jp2", ".jpc", ".jpf", ".jpx", ".jxl", ".jxr", ".ktx"),
    *(".mng", ".pam", ".pbm", ".pcx", ".pfm", ".pgm", ".pnm", ".ppm", ".psb", ".psd", ".qoi", ".ras", ".sgi"),
    *(".svg", ".tga", ".wdp", ".wmf", ".xcf"),
)
"""Known kinds of image that most installations do not decode: listed, so that each has a row that says so."""
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAX_REASONS = 40


class EmptyInputError(InputError):
    """There is nothing of the kinds looked for."""


@dataclass(frozen=True, kw_only=True)
class ListingRules:
    """What to list, and what to do about containers of which a part is missing."""

    suffixes: tuple[str, ...] = (*IMAGE_EXTENSIONS, *UNREAD_EXTENSIONS)
    """Of the names that are listed, in lower case."""
    column: str | None = None
    """Of Parquet files, that holds the images. None: one of the usual names."""
    accept_incomplete: bool = False
    """List what is whole of a container that is not, and say so, in place of refusing it."""
    video: VideoConfig = field(default_factory=VideoConfig)
    """Which frames of a video."""


@dataclass(kw_only=True)
class Account:
    """What a listing saw besides what it lists. Every lister adds to the one that it is given."""

    left_out: Counter[str] = field(default_factory=Counter)
    """Number of things passed over, by reason."""
    incomplete: list[str] = field(default_factory=list)
    """Containers of which only the whole images were taken, in a sentence each."""

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count something that is not listed. Reasons beyond the first forty are one."""
        known = reason in self.left_out or len(self.left_out) < _MAX_REASONS
        self.left_out[reason if known else "other reasons"] += count

    def accept(self, problem: str, rules: "ListingRules") -> None:
        """Take note of a container that is not whole.

        Raises:
            InputError: The rules do not accept it.
        """
        if not rules.accept_incomplete:
            raise InputError(f"{problem}; get it again, or take what is whole: input_incomplete=accept")
        self.incomplete.append(problem)

    def describe(self) -> Iterator[str]:
        """Yield what to say of it, a line each; nothing if everything was listed."""
        if self.left_out:
            listed = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()))
            yield f"left out of the input: {listed}"
        yield from (f"not whole: {problem}" for problem in self.incomplete)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One listed image. Size and time are 0 where they cannot be known before reading."""

    path: bytes
    """POSIX path relative to the input's root."""
    size: int
    """Bytes."""
    mtime_ns: int
    origin: Origin = UNKNOWN_ORIGIN


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

    def iter_files(self, account: Account | None = None) -> Iterator[InputFile]:
        """Yield every image once, in no particular order, holding none of them.

        Args:
            account: Where to count what is not yielded.

        Raises:
            InputError: The input cannot be listed, is not whole, or holds no images.
        """
        ...

    def read(self, entry: ManifestEntry, config: DecodeConfig) -> bytes:
        """Return the bytes of one image, read once.

        Raises:
            ImageError: VANISHED, CHANGED, UNREADABLE or TOO_LARGE.
        """
        ...


def sorted_files(source: InputSource) -> list[InputFile]:
    """Return every image of an input, sorted bytewise by path. Raises as its ``iter_files`` does."""
    return sorted(source.iter_files(), key=lambda file: file.path)


@dataclass(frozen=True, kw_only=True)
class FileInput:
    """Images that are files below one root."""

    name: str
    root: str
    walk: Callable[[Account], Iterable[InputFile]]
    """Lists the files; a function of a module with its other arguments bound, so that it pickles."""
    if_empty: str
    """What to say when there is none."""

    def iter_files(self, account: Account | None = None) -> Iterator[InputFile]:
        """Yield every image once, in no particular order."""
        return listed(self.walk, self.if_empty, account)

    def read(self, entry: ManifestEntry, config: DecodeConfig) -> bytes:
        """Return the file's bytes."""
        refuse_raw(entry.path)
        return read_file(located(os.fsencode(self.root), entry.path), entry, config)


# O_NONBLOCK: opening a named pipe would otherwise wait for a writer for ever. Where there are no such pipes
# there is no such flag, but one without which bytes would be changed as if they were text.
_READ_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))


def located(folder: bytes, name: bytes) -> bytes:
    """Return where a name is that is relative to a folder; from a bucket no name leads to this machine."""
    if is_object_url(os.fsdecode(name)):
        return name
    if is_object_url(os.fsdecode(folder)):
        return folder.rstrip(b"/") + b"/" + name
    return os.path.join(folder, name)


def read_file(path: bytes, entry: ManifestEntry, config: DecodeConfig) -> bytes:
    """Return a regular file's bytes if it is still the one in the manifest, in one pass and without blocking.

    Args:
        path: Or the URL of an object.
        entry: Of the manifest.
        config: Its ``max_file_bytes`` counts.

    Raises:
        ImageError: VANISHED, CHANGED, UNREADABLE or TOO_LARGE.
    """
    if is_object_url(os.fsdecode(path)):
        return _read_object(os.fsdecode(path), entry, config)
    try:
        descriptor = os.open(path, _READ_FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(ImageStatus.VANISHED, "the file no longer exists") from None
    except (OSError, ValueError) as error:
        raise unreadable(error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(ImageStatus.UNREADABLE, "not a regular file")
        refuse_large(status.st_size, config)
        # A new time alone is a `touch` or a copy: the bytes are hashed. What was not there then is no change.
        if entry.was_there and status.st_size != entry.size:
            message = f"{status.st_size} bytes now, {entry.size} when it was listed"
            raise ImageError(ImageStatus.CHANGED, message)
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            data = _read_up_to(file.read, status.st_size + 1)
        if len(data) != status.st_size:
            message = f"{len(data)} bytes or more were read of a file of {status.st_size}"
            raise ImageError(ImageStatus.CHANGED, message)
    except OSError as error:
        raise unreadable(error) from None
    finally:
        os.close(descriptor)
    return data


def _read_object(url: str, entry: ManifestEntry, config: DecodeConfig) -> bytes:
    """Return an object's bytes, in one request; raises as `read_file`."""
    refuse_large(entry.size, config)
    try:
        bucket, name = split_url(url)
        with storage_as_os_error():
            data = Bucket(bucket).get(name)
    except (FileNotFoundError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise unreadable(error) from None
        raise ImageError(ImageStatus.VANISHED, "the object does not exist") from None
    except OSError as error:
        raise unreadable(error) from None
    refuse_large(len(data), config)
    if len(data) != entry.size:
        message = f"{len(data)} bytes now, {entry.size} when it was listed"
        raise ImageError(ImageStatus.CHANGED, message)
    return data


def refuse_large(size: int, config: DecodeConfig) -> None:
    """Raise `ImageError` TOO_LARGE for more bytes than the cap."""
    if size > config.max_file_bytes:
        message = f"{size} bytes are more than decode.max_file_bytes={config.max_file_bytes}"
        raise ImageError(ImageStatus.TOO_LARGE, message)


def listed(
    walk: Callable[[Account], Iterable[InputFile]], if_empty: str, account: Account | None
) -> Iterator[InputFile]:
    """Yield the files of a walk. Without an account, what it passes over goes to the log.

    Raises:
        InputError: There was no file; the message says what else there was.
    """
    kept = Account() if account is None else account
    is_empty = True
    for file in walk(kept):
        is_empty = False
        yield file
    if is_empty:
        raise EmptyInputError("; ".join([if_empty, *kept.describe()]))
    for line in kept.describe() if account is None else ():
        log.warning("%s", line)


def refuse_no_path(path: bytes, where: str) -> None:
    """Raise `InputError` for what is neither a path nor an object's URL: lists fetch nothing from the web."""
    text = os.fsdecode(path)
    if b"\0" in path or (URL.match(text) and not is_object_url(text)):
        raise InputError(f"{where}: {text!r} is not a path")


def why_left_out(name: bytes, suffixes: tuple[str, ...]) -> str | None:
    """Return why a file of this name is not listed; None if it is: visible, with one of the suffixes."""
    if name.startswith(b"."):
        return "hidden"
    suffix = os.fsdecode(os.path.splitext(name)[1]).lower()
    if suffix in suffixes:
        return None
    kind = suffix if suffix.isascii() and suffix.isprintable() and len(suffix) <= 12 else "of odd suffixes"
    return f"other files ({kind or 'no suffix'})"


def no_images_in(container: str, suffixes: Iterable[str]) -> str:
    """Return what to say of a container without images."""
    return f"no images in {container!r}: {looked_for(suffixes)}"


def looked_for(suffixes: Iterable[str]) -> str:
    """Return what to say of the suffixes that were looked for: those of images that are read."""
    return "looked for " + ", ".join(suffix for suffix in suffixes if suffix not in UNREAD_EXTENSIONS)


def refuse_raw(path: bytes) -> None:
    """Raise `ImageError` UNSUPPORTED for a camera's raw file: decoders would take its thumbnail for it."""
    suffix = os.fsdecode(os.path.splitext(path)[1]).lower()
    if suffix in RAW_EXTENSIONS:
        message = f"a camera's raw file ({suffix}) is not developed here; convert it to TIFF or JPEG"
        raise ImageError(ImageStatus.UNSUPPORTED, message)


def short_name(path: str, *, keep_extension: bool = False) -> str:
    """Return the last component of a path, made printable and never empty."""
    base = os.path.basename(path)
    base = base if keep_extension else os.path.splitext(base)[0]
    return "".join(char if char.isprintable() else "_" for char in base) or "images"


def stat_file(absolute: bytes, path: bytes) -> InputFile:
    """Return the listing of one path, or URL; zeros where there is no file, or none any more, or none yet."""
    if is_object_url(os.fsdecode(absolute)):
        try:
            known = status_of(os.fsdecode(absolute))
        except FileNotFoundError:
            return InputFile(path=path, size=0, mtime_ns=0)
        return InputFile(path=path, size=known.size, mtime_ns=known.mtime_ns)
    with contextlib.suppress(OSError):
        status = os.stat(absolute)
        if stat.S_ISREG(status.st_mode):
            return InputFile(path=path, size=status.st_size, mtime_ns=status.st_mtime_ns)
    return InputFile(path=path, size=0, mtime_ns=0)


def container_mtime_ns(path: str) -> int:
    """Return the modification time of the file that the images lie in.

    Raises:
        ImageError: VANISHED if it is gone.
    """
    try:
        return recent_status_of(path).mtime_ns
    except OSError as error:
        raise ImageError(
            ImageStatus.VANISHED, f"the file with the images is gone: {error.strerror}"
        ) from None


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


TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "EAGAIN", "EINTR", "EBUSY", "ETIMEDOUT", "ECONNRESET", "EREMOTEIO", "ENETDOWN",
        "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ENFILE", "EMFILE", "ENOMEM",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""What a disk, a network file system or a full table of descriptors says that may pass."""


def unreadable(error: Exception, where: str = "") -> ImageError:
    """Return the error for bytes that cannot be had."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
    is_transient = isinstance(error, OSError) and error.errno in TRANSIENT
    return ImageError(ImageStatus.UNREADABLE, f"cannot be read{where}: {reason}", is_transient)
