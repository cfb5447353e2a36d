"""Images inside one tar, read at random without unpacking. One walker for inputs and training.

Objects hold only paths; the index is cached by process. A compressed tar, whatever its name, is unpacked once
into a cache, see `sam_engine.inputs.unpack`.
"""

import functools
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

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
from sam_engine.inputs.unpack import plain_file
from sam_engine.storage.anywhere import open_file, status_of
from sam_engine.structures import ImageStatus, ManifestEntry, Origin

BLOCK_BYTES = tarfile.BLOCKSIZE
_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENSIONS = (*_PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX_RECORD = re.compile(rb"(\d+) [^=]+=")


@dataclass(frozen=True, slots=True)
class Member:
    """Where a file lies in a tar."""

    offset: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class TarIndex:
    """The files of a tar by path, and what else was found in it."""

    members: Mapping[bytes, Member]
    """In their order; of equal names the last."""
    left_out: Mapping[str, int]
    problem: str | None
    """Why the tar is not whole, in a sentence; None if it is."""


@dataclass(frozen=True, kw_only=True)
class TarInput:
    """The images of a tar, named by their members (SA-1B, webdataset)."""

    name: str
    root: str
    """The tar itself."""
    rules: ListingRules = field(default_factory=ListingRules)

    def iter_files(self, account: Account | None = None) -> Iterator[InputFile]:
        """Yield every image member once, in the order of the tar."""
        return listed(self._walk, no_images_in(self.root, self.rules.suffixes), account)

    def read(self, entry: ManifestEntry, config: DecodeConfig) -> bytes:
        """Return one member's bytes."""
        refuse_raw(entry.path)
        try:
            member = self._index(container_mtime_ns(self.root)).members.get(entry.path)
        except InputError as error:
            raise ImageError(ImageStatus.CHANGED, str(error)) from None
        if member is None:
            raise ImageError(ImageStatus.VANISHED, "the tar no longer holds this member")
        refuse_large(member.size, config)
        if member.size != entry.size:
            raise ImageError(ImageStatus.CHANGED, "the tar's member is not the one that was listed")
        try:
            with _open_plain(self.root) as file:
                file.seek(member.offset)
                data = file.read(member.size)
        except (OSError, InputError) as error:
            raise unreadable(error) from None
        if len(data) != member.size:
            raise ImageError(ImageStatus.CHANGED, f"the tar ends inside this member, after {len(data)} bytes")
        return data

    def _walk(self, account: Account) -> Iterator[InputFile]:
        """Yield every image member, and count the others."""
        index = self._index(status_of(self.root).mtime_ns)
        if index.problem:
            account.accept(index.problem, self.rules)
        for reason, count in index.left_out.items():
            account.leave_out(reason, count)
        for path, member in index.members.items():
            origin = Origin(source_key=webdataset_key(path))
            yield InputFile(path=path, size=member.size, mtime_ns=member.mtime_ns, origin=origin)

    def _index(self, mtime_ns: int) -> TarIndex:
        """Return the index of the tar as it is now."""
        return tar_index(self.root, mtime_ns, self.rules.suffixes)


def webdataset_key(path: bytes) -> str | None:
    """Return what WebDataset calls the sample of a member: its path up to the first dot of its name.

    None where there is no such thing, or it is not UTF-8.
    """
    folder, slash, name = path.rpartition(b"/")
    stem, dot, _extensions = name.partition(b".")
    try:
        return (folder + slash + stem).decode() if stem and dot else None
    except UnicodeDecodeError:
        return None


def _open_plain(path: str) -> BinaryIO:
    """Open the plain bytes of a tar, unpacking them again if the cache had to let them go."""
    try:
        return open_file(plain_file(path)[0])
    except FileNotFoundError:
        return open_file(plain_file(path)[0])


class TarEnd(Exception):  # noqa: N818 - how a walk over a tar ends that is not whole, caught by who walks
    """A tar goes on or stops where it should not; what came before is whole."""


@functools.lru_cache(maxsize=4)
def tar_index(path: str, _mtime_ns: int, suffixes: tuple[str, ...]) -> TarIndex:
    """Return where the files with these suffixes lie in a tar.

    Raises:
        InputError: It is no tar.
    """
    members: dict[bytes, Member] = {}
    links: dict[bytes, bytes] = {}
    left_out: Counter[str] = Counter()
    problem = None
    try:
        plain, problem = plain_file(path)
        with open_file(plain) as file:
            for info in walk_tar(file):
                _enter(info, suffixes, members, links, left_out)
    except TarEnd as error:
        problem = f"{problem}, and {error}" if problem else str(error)
    except (tarfile.TarError, OSError) as error:
        reason = problem or str(error)
        raise InputError(f"input {path!r} is not a readable tar: {reason}") from error
    if problem:
        problem = (
            f"input {path!r} is not whole: {problem}; {len(members)} whole files of the kinds looked for"
        )
    if links:
        _resolve(plain, links, members, left_out)
    return TarIndex(members=members, left_out=left_out, problem=problem)


def walk_tar(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield every member whose bytes are all there, in order, reading headers only.

    tarfile itself ends without a word at a damaged header, at the end of a file that was cut between members,
    and at the first of two archives in one file.

    Args:
        file: Seekable.

    Raises:
        TarEnd: When all whole members were yielded: the archive is cut, damaged, or has no end. Where another
            archive follows the first, its members are yielded too.
        TarError: It is no tar.
    """
    num_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
    tar.offset, start, has_end, joined = 0, 0, False, None
    while start < num_bytes:
        file.seek(start)
        try:
            info = tar.tarinfo.fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros
            has_end, start = True, start + BLOCK_BYTES
            continue
        except (tarfile.HeaderError, ValueError, OverflowError, RecursionError) as error:
            if num_bytes - start < BLOCK_BYTES and has_end:
                break  # less than a block after the end: padding
            raise TarEnd(f"a damaged header at byte {start:,} ({error})") from None
        if has_end:
            joined = joined or start
            has_end = False
        if not _extensions_are_sound(file, start):
            raise TarEnd(f"a damaged extended header at byte {start:,}")
        if info.size < 0 or tar.offset <= start:
            raise TarEnd(f"a damaged header at byte {start:,} (a size of {info.size})")
        if info.isreg() and info.offset_data + info.size > num_bytes:
            raise TarEnd(f"it is cut short: {info.name!r}, at byte {start:,}, lies beyond its end")
        yield info
        start = tar.offset
    if joined is not None:
        raise TarEnd(f"another archive begins at byte {joined:,}, after the end of the first")
    if not has_end:
        raise TarEnd(f"it is cut short: the end of the archive is missing at byte {num_bytes:,}")


def _extensions_are_sound(file: BinaryIO, start: int) -> bool:
    """Return whether the records of a member's extended headers, if it has any, fill them.

    tarfile takes what it can of others, and for the rest the name that old programs would see.
    """
    file.seek(start)
    header = tarfile.TarInfo.frombuf(file.read(BLOCK_BYTES), "utf-8", "surrogateescape")
    while header.type in _EXTENSIONS:
        records = file.read(header.size)
        file.seek(-header.size % BLOCK_BYTES, os.SEEK_CUR)
        while header.type in _PAX and (match := _PAX_RECORD.match(records)):
            length = int(match[1])
            if length <= match.end() or records[length - 1 : length] != b"\n":
                return False
            records = records[length:]
        if header.type in _PAX and records.strip(b"\0"):
            return False
        header = tarfile.TarInfo.frombuf(file.read(BLOCK_BYTES), "utf-8", "surrogateescape")
    return True


def _enter(
    info: tarfile.TarInfo,
    suffixes: tuple[str, ...],
    members: dict[bytes, Member],
    links: dict[bytes, bytes],
    left_out: Counter[str],
) -> None:
    """Put a member where it belongs."""
    if info.isdir():
        return
    path = _path(info.name)
    reason = why_left_out(os.path.basename(path), suffixes)
    if not (info.isreg() or info.islnk()):
        reason = "links" if info.issym() else "devices and pipes"
    elif info.issparse():
        reason = "sparse files"
    if reason:
        left_out[reason] += 1
    elif info.islnk():
        links[path] = _path(info.linkname)
    else:
        if path in members or path in links:
            left_out["older versions of a name"] += 1
        links.pop(path, None)
        members[path] = Member(info.offset_data, info.size, int(info.mtime * 1e9))


def _resolve(
    path: str, links: Mapping[bytes, bytes], members: dict[bytes, Member], left_out: Counter[str]
) -> None:
    """Enter hard links as the files that they name, also by way of other links.

    Files of other suffixes are found by a second walk.
    """
    ends = {name: _end_of_chain(name, links) for name in links}
    wanted = set(ends.values()) - members.keys()
    targets = {target: members[target] for target in ends.values() if target in members}
    with open_file(path) as file:
        try:
            for info in walk_tar(file) if wanted else ():
                if info.isreg() and not info.issparse() and (name := _path(info.name)) in wanted:
                    targets[name] = Member(info.offset_data, info.size, int(info.mtime * 1e9))
        except TarEnd:
            pass  # told already
    for name, target in ends.items():
        if target in targets:
            members[name] = targets[target]
        elif name not in members:
            left_out["hard links to what is not in the tar"] += 1


def _end_of_chain(name: bytes, links: Mapping[bytes, bytes]) -> bytes:
    """Return what a link names that is no link itself; any of them where they go round in a circle."""
    for _ in links:
        if name not in links:
            break
        name = links[name]
    return name


def _path(name: str) -> bytes:
    """Return a member's name as a path."""
    return os.fsencode(name).removeprefix(b"./")
