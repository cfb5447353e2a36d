"""A model of what a disk holds after the power failed: every legal state, from the calls that a process made.

What a file system promises, and no more: `fsync` on a file makes its bytes last, `fsync` on a folder its
entries. Of what was not synced, any entry may or may not have reached the disk, or, as with a journal, all up
to some moment; unsynced bytes may be there, half there, zeros or missing. A process may have died before,
without the power failing: then everything that it did still stands in the system's memory, synced or not.

Source of the idea: Pillai et al. 2014, "All File Systems Are Not Created Equal" (ALICE).
"""

import itertools
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

REORDERED_AT_MOST = 8
"""Unsynced entries of which every subset is tried; of more, a sample."""
SAMPLE = 64

MARKS = ("ack", "done")
"""Operations that are no calls."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One call as it went, or a mark: ``ack`` where a caller heard that a path lasts, ``done`` at exit 0."""

    name: str
    path: str = ""
    target: str = ""
    """Of a link or rename."""
    data: bytes = b""
    offset: int | None = None
    """Of a write; None to append. Of ftruncate: the size."""
    is_folder: bool = False
    """For fsync."""


@dataclass(slots=True)
class _File:
    """Bytes of an inode: what lasts, and what a running system sees."""

    durable: bytes = b""
    volatile: bytes = b""
    has_been_synced: bool = False

    def variants(self) -> list[bytes]:
        """Return what may be read after the power failed."""
        if self.durable == self.volatile:
            return [self.durable]
        half = self.volatile[: len(self.volatile) // 2]
        return list(dict.fromkeys([self.volatile, self.durable, half, bytes(len(self.volatile))]))


_FOLDER = _File()
"""Stands for any folder."""

_Entries = dict[str, _File]


@dataclass(slots=True)
class Disk:
    """A disk under a running system, to which operations are applied one by one."""

    volatile: _Entries = field(default_factory=dict)
    """Every path as processes see it."""
    durable: _Entries = field(default_factory=dict)
    """Entries that are certain to be found after the power failed."""
    pending: list[tuple[str, _File | None]] = field(default_factory=list)
    """Entries made (or, with None, removed) since their folder was last synced, in order."""

    def apply(self, operation: Operation) -> None:
        """Do what a call did."""
        path, target = operation.path, operation.target
        match operation.name:
            case "create":
                if path not in self.volatile:
                    self._set(path, _File())
            case "mkdir":
                self._set(path, _FOLDER)
            case "write":
                self._write(self.volatile[path], operation)
            case "ftruncate":
                file = self.volatile[path]
                file.volatile = file.volatile[: operation.offset]
            case "fsync" if operation.is_folder:
                self._sync_folder(path)
            case "fsync":
                file = self.volatile[path]
                file.durable, file.has_been_synced = file.volatile, True
            case "link":
                self._set(target, self.volatile[path])
            case "rename":
                file = self.volatile[path]
                self._set(target, file)
                self._set(path, None)
            case "unlink":
                self._set(path, None)

    def crash_states(self, *, ignore: str, dice: random.Random) -> Iterator[dict[str, bytes]]:
        """Yield what may be found after the power failed now: files by path, each state once.

        Args:
            ignore: Paths that start so play no part.
            dice: Draws subsets where there are too many.
        """
        pending = [entry for entry in self.pending if not entry[0].startswith(ignore)]
        seen = set()
        for survivors in _survivors(pending, dice):
            entries = dict(self.durable)
            for path, file in survivors:
                if file is None:
                    entries.pop(path, None)
                else:
                    entries[path] = file
            files = {
                path: file
                for path, file in entries.items()
                if file is not _FOLDER and not path.startswith(ignore) and _is_reachable(path, entries)
            }
            for contents in itertools.product(*(file.variants() for file in files.values())):
                state = dict(zip(files, contents, strict=True))
                key = frozenset((path, hash(content)) for path, content in state.items())
                if key not in seen:
                    seen.add(key)
                    yield state

    def _set(self, path: str, file: _File | None) -> None:
        """Make or remove an entry."""
        self.pending.append((path, file))
        if file is None:
            self.volatile.pop(path, None)
        else:
            self.volatile[path] = file

    def _sync_folder(self, folder: str) -> None:
        """Make the entries of a folder last."""
        for path, file in self.pending:
            if os.path.dirname(path) == folder:
                if file is None:
                    self.durable.pop(path, None)
                else:
                    self.durable[path] = file
        self.pending = [entry for entry in self.pending if os.path.dirname(entry[0]) != folder]

    @staticmethod
    def _write(file: _File, operation: Operation) -> None:
        """Put bytes at their offset."""
        offset = len(file.volatile) if operation.offset is None else operation.offset
        before = file.volatile[:offset].ljust(offset, b"\0")
        file.volatile = before + operation.data + file.volatile[offset + len(operation.data) :]


def _survivors(
    pending: Sequence[tuple[str, _File | None]], dice: random.Random
) -> Iterator[Sequence[tuple[str, _File | None]]]:
    """Yield which unsynced entries reached the disk: all prefixes, and subsets regardless of order."""
    for length in range(len(pending) + 1):
        yield pending[:length]
    if len(pending) <= REORDERED_AT_MOST:
        choices: Iterator[tuple[bool, ...]] = itertools.product((True, False), repeat=len(pending))
    else:
        choices = (tuple(dice.random() < 0.5 for _ in pending) for _ in range(SAMPLE))
    for choice in choices:
        yield list(itertools.compress(pending, choice))


def _is_reachable(path: str, entries: _Entries) -> bool:
    """Return whether every folder above a path has its entry too; the uppermost one is there."""
    folder = os.path.dirname(path)
    while folder:
        if entries.get(folder) is not _FOLDER:
            return False
        folder = os.path.dirname(folder)
    return True
