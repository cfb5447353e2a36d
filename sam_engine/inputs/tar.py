"""Images inside one tar, read at random without unpacking. Objects hold only paths; the index is cached."""

import functools
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError, InputError
from sam_engine.inputs.source import (
    IMAGE_EXTENSIONS,
    InputFile,
    container_mtime_ns,
    is_image_name,
    refuse_empty,
    refuse_large,
)
from sam_engine.structures import ImageStatus, ManifestEntry


@dataclass(frozen=True, kw_only=True)
class TarInput:
    """The images of an uncompressed tar, named by their members (SA-1B, webdataset)."""

    name: str
    root: str
    """The tar itself."""

    def iter_files(self) -> Iterator[InputFile]:
        """Yield every image member once."""
        index = _tar_index(self.root, os.stat(self.root).st_mtime_ns)
        files = (
            InputFile(path=path, size=size, mtime_ns=mtime_ns)
            for path, (_offset, size, mtime_ns) in index.items()
        )
        return refuse_empty(files, f"no images in {self.root!r}: looked for {', '.join(IMAGE_EXTENSIONS)}")

    def list_files(self) -> list[InputFile]:
        """Return every image member, sorted bytewise by path."""
        return sorted(self.iter_files(), key=lambda file: file.path)

    def read(self, entry: ManifestEntry, config: DecodeConfig) -> bytes:
        """Return one member's bytes."""
        mtime_ns = container_mtime_ns(self.root)
        try:
            member = _tar_index(self.root, mtime_ns).get(entry.path)
        except InputError as error:
            raise ImageError(ImageStatus.CHANGED, str(error)) from None
        if member is None:
            raise ImageError(ImageStatus.VANISHED, "the tar no longer holds this member")
        offset, size, member_mtime_ns = member
        refuse_large(size, config)
        if (size, member_mtime_ns) != (entry.size, entry.mtime_ns):
            raise ImageError(ImageStatus.CHANGED, "the tar's member is not the one that was listed")
        try:
            with open(self.root, "rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise ImageError(ImageStatus.UNREADABLE, f"cannot be read: {error.strerror}") from None
        if len(data) != size:
            raise ImageError(ImageStatus.CHANGED, f"the tar ends inside this member, after {len(data)} bytes")
        return data


@functools.lru_cache(maxsize=4)
def _tar_index(path: str, _mtime_ns: int) -> dict[bytes, tuple[int, int, int]]:
    """Return offset, size and modification time of every image member; of equal names the last one counts."""
    index = {}
    try:
        num_bytes = os.path.getsize(path)
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps an object for every member
                member_path = os.fsencode(member.name).removeprefix(b"./")
                if (
                    not member.isreg()
                    or member.issparse()
                    or not is_image_name(os.path.basename(member_path))
                ):
                    continue
                if member.offset_data + member.size > num_bytes:
                    raise InputError(f"input {path!r} is cut short: {member.name!r} lies beyond its end")
                index[member_path] = (member.offset_data, member.size, int(member.mtime * 1e9))
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"input {path!r} is not a readable uncompressed tar: {error}") from error
    return index
