"""Folders and globs: of images, or, where there are no images, of tars, zips, Parquet files and videos.

Images inside a container are named by it: ``sa_000000.tar/sa_1.jpg``, ``b/x.parquet#000000012``.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sam_engine.config import DecodeConfig
from sam_engine.errors import InputError
from sam_engine.inputs.source import (
    Account,
    EmptyInputError,
    FileInput,
    InputFile,
    InputSource,
    ListingRules,
    short_name,
)
from sam_engine.inputs.unpack import compression_of
from sam_engine.storage.anywhere import is_file, open_file
from sam_engine.storage.place import is_object_url
from sam_engine.structures import ManifestEntry

# What the kinds need is imported late: most runs need neither pyarrow nor OpenCV here.


def _open_archive(path: str, rules: ListingRules) -> InputSource:
    """Return the images in a tar, compressed or not, or in a zip, whichever of the two it is called."""
    if (_is_zip(path) or path.lower().endswith(".zip")) and not looks_like_tar(path):
        from sam_engine.inputs.zip import ZipInput

        return ZipInput(name=short_name(path), root=path, rules=rules)
    from sam_engine.inputs.tar import TarInput

    return TarInput(name=short_name(path), root=path, rules=rules)


def _is_zip(path: str) -> bool:
    """Return whether a file begins as a zip does."""
    with open_file(path) as file:
        return file.read(4) == b"PK\x03\x04"


def looks_like_tar(path: str) -> bool:
    """Return whether a file of any name is a tar, or compressed and so perhaps one."""
    with open_file(path) as file:
        head = file.read(512)
    return head[257:262] == b"ustar" or compression_of(path) is not None


def _open_parquet(path: str, rules: ListingRules) -> InputSource:
    """Return the images in a Parquet file."""
    from sam_engine.inputs.parquet import open_parquet

    return open_parquet(path, rules.column)


def _open_video(path: str, rules: ListingRules) -> InputSource:
    """Return the frames of a video."""
    if is_object_url(path):
        raise InputError(f"input {path!r}: videos are not read from object stores; download it")
    from sam_engine.inputs.video import open_video

    return open_video(path, rules)


VIDEO_EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
BY_EXTENSION: dict[str, Callable[[str, ListingRules], InputSource]] = {
    **dict.fromkeys((".tar", ".tar.bz2", ".tar.gz", ".tar.xz", ".tgz", ".zip"), _open_archive),
    ".parquet": _open_parquet,
    **dict.fromkeys(VIDEO_EXTENSIONS, _open_video),
}
"""What opens a file that holds images, given its absolute path and what is listed of it."""
NUMBERED = (".parquet", *VIDEO_EXTENSIONS)
"""Kinds whose images are named ``file#000012``; those of the others are named as they are inside."""
CONTAINER_SUFFIXES = tuple({"." + extension.rpartition(".")[2] for extension in BY_EXTENSION})


def _ending_in(extensions: Iterable[str]) -> bytes:
    """Return a pattern of paths with one of the extensions."""
    return b"(.*?(?:" + b"|".join(re.escape(extension.encode()) for extension in extensions) + b"))"


_IN_ARCHIVE = re.compile(_ending_in(BY_EXTENSION.keys() - {*NUMBERED}) + b"/(.+)", re.DOTALL | re.IGNORECASE)
_IN_NUMBERED = re.compile(_ending_in(NUMBERED) + rb"#\d+", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ManyInput:
    """What a folder or a glob holds."""

    files: FileInput
    """The images that are files."""
    containers: FileInput
    """The containers; they are looked into only where there are no images."""
    rules: ListingRules

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.files.name

    @property
    def root(self) -> str:
        """The folder."""
        return self.files.root

    def iter_files(self, account: Account | None = None) -> Iterator[InputFile]:
        """Yield every image once; containers come in the order of their names."""
        try:
            yield from self.files.iter_files(account)
        except EmptyInputError:
            found = [file.path for file in self.containers.walk(Account()) if is_container(file.path)]
            if not found:
                raise
        else:
            return
        account = account or Account()
        is_empty = True
        for path in sorted(found):
            child = _child(self.root, path, self.rules)
            try:
                for file in child.iter_files(account):
                    is_empty = False
                    yield dataclasses.replace(file, path=_outer(path, file.path))
            except EmptyInputError:
                account.leave_out("containers without images")
        if is_empty:
            kinds = "tars, zips, Parquet files or videos"
            raise EmptyInputError(f"no images in the {len(found)} {kinds} below {self.root!r}")

    def read(self, entry: ManifestEntry, config: DecodeConfig) -> bytes:
        """Return one image's bytes, from its file or from the container that it lies in."""
        if match := _IN_ARCHIVE.fullmatch(entry.path):
            container, inner = match[1], match[2]
        elif match := _IN_NUMBERED.fullmatch(entry.path):
            container, inner = match[1], os.path.basename(entry.path)
        else:
            return self.files.read(entry, config)
        if not is_file(os.path.join(self.root, os.fsdecode(container))):
            return self.files.read(entry, config)  # a folder of such a name, or nothing any more
        child = _child(self.root, container, self.rules)
        return child.read(dataclasses.replace(entry, path=inner), config)


def is_container(path: bytes) -> bool:
    """Return whether a name is that of a file that holds images."""
    return os.fsdecode(path).lower().endswith(tuple(BY_EXTENSION))


def open_container(path: str, rules: ListingRules) -> InputSource:
    """Return the images inside one file, told by its name; what has none of the names is taken for a tar.

    Raises:
        InputError: It is not what its name says.
    """
    return next((BY_EXTENSION[e] for e in BY_EXTENSION if path.lower().endswith(e)), _open_archive)(
        path, rules
    )


def _outer(container: bytes, inner: bytes) -> bytes:
    """Return the name of an image inside a container, relative to what the container's is relative to."""
    if _IN_ARCHIVE.fullmatch(container + b"/x"):
        return container + b"/" + inner
    return os.path.join(os.path.dirname(container), inner)  # a row or frame has its file in its name


@functools.lru_cache(maxsize=8)
def _child(root: str, path: bytes, rules: ListingRules) -> InputSource:
    """Return a container as an input."""
    return open_container(os.path.join(root, os.fsdecode(path)), rules)
