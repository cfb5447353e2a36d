"""Images inside one zip, read at random: each member is compressed by itself, and has a checksum."""

import calendar
import functools
import os
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
from sam_engine.structures import ImageStatus, ManifestEntry

_ENCRYPTED = 0x1


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
        archive = _open(self.root, os.stat(self.root).st_mtime_ns)
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
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"input {path!r} is not a readable zip, or not whole: {error}") from error
