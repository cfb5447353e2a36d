"""Images inside one zip, read at random: each member is compressed by itself, and has a checksum."""

import calendar
import functools
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError, InputError
from sam_engine.inputs.source import (
    Account,
    InputFile,
    ListingRules,
    container_mtime_ns,
    listed,
    no_images_in,
    refuse_large,
    refuse_raw,
    unreadable,
    why_left_out,
)
from sam_engine.storage.anywhere import open_file, status_of
from sam_engine.storage.place import is_object_url
from sam_engine.structures import ImageStatus, ManifestEntry

_ENCRYPTED = 0x1
_MEMBER, _END_MARK = b"PK\x03\x04", b"PK\x05\x06"
_END = struct.Struct("<4s4H2IH")
"""The end of a zip: mark, two numbers of disks, files on this disk and in all, size and place of the
directory, size of the comment."""


@dataclass(frozen=True, kw_only=True)
class ZipInput:
    """The images of a zip, named by their members."""

    name: str
    root: str
    """The zip itself."""
    rules: ListingRules = field(default_factory=ListingRules)

    def iter_files(self, account: Account | None = None) -> Iterator[InputFile]:
        """Yield every image member once, in the order of the zip's directory."""
        return listed(self._walk, no_images_in(self.root, self.rules.suffixes), account)

    def read(self, entry: ManifestEntry, config: DecodeConfig) -> bytes:
        """Return one member's bytes."""
        refuse_raw(entry.path)
        try:
            archive = _open(self.root, container_mtime_ns(self.root))
            info = archive.NameToInfo.get(os.fsdecode(entry.path))
            if info is None:
                raise ImageError(ImageStatus.VANISHED, "the zip no longer holds this member")
            refuse_large(info.file_size, config)
            if info.file_size != entry.size:
                raise ImageError(ImageStatus.CHANGED, "the zip's member is not the one that was listed")
            return archive.read(info)
        except InputError as error:
            raise ImageError(ImageStatus.CHANGED, str(error)) from None
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
            raise unreadable(error, " from the zip") from None

    def _walk(self, account: Account) -> Iterator[InputFile]:
        """Yield every image member, and count the others."""
        archive = _open(self.root, status_of(self.root).mtime_ns)
        if problem := _why_not_whole(archive, self.root):
            account.accept(f"input {self.root!r} is not whole: {problem}", self.rules)
        last = archive.NameToInfo
        for info in archive.infolist():
            if info.is_dir():
                continue
            path = os.fsencode(info.filename)
            reason = why_left_out(os.path.basename(path), self.rules.suffixes)
            if reason is None and info.flag_bits & _ENCRYPTED:
                reason = "encrypted"
            if reason is None and last[info.filename] is not info:
                reason = "older versions of a name"
            if reason is None:
                yield InputFile(path=path, size=info.file_size, mtime_ns=_mtime_ns(info))
            else:
                account.leave_out(reason)


def _why_not_whole(archive: zipfile.ZipFile, path: str) -> str | None:
    """Return what a zip's directory does not tell of its files; None if it tells of all.

    zipfile reads the last of several zips in one file, and as much of a directory as is there.
    """
    listed = archive.infolist()
    with open_file(path) as file:
        begins_with_member = file.read(4) == _MEMBER
        file.seek(-_END.size - len(archive.comment), os.SEEK_END)
        mark, *_, stated, _size, _offset, _comment = _END.unpack(file.read(_END.size))
    if begins_with_member and all(info.header_offset > 0 for info in listed):
        return f"other files, perhaps another zip, lie before the first of the {len(listed)} in its directory"
    # Old programs count modulo 65,536; newer ones write 65,535 and the number elsewhere.
    if mark == _END_MARK and stated not in (len(listed) % 2**16, 2**16 - 1):
        return f"its directory has {len(listed)} files of the {stated} that it states"
    return None


def _mtime_ns(info: zipfile.ZipInfo) -> int:
    """Return a member's time, taken for UTC: a zip does not say where it was made."""
    return calendar.timegm((*info.date_time, 0, 0, 0)) * 10**9


@functools.lru_cache(maxsize=2)
def _open(path: str, _mtime_ns: int) -> zipfile.ZipFile:
    """Return this process's open zip; threads may share it.

    Raises:
        InputError: It is none, or not whole: its directory lies at its end.
    """
    try:
        return zipfile.ZipFile(open_file(path) if is_object_url(path) else path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"input {path!r} is not a readable zip, or not whole: {error}") from error
