"""The seam between a dataset and where it lies: named objects that appear whole or not at all.

Names are POSIX paths relative to the store (``annotations/shard-000000.parquet``). The one promise that the
rest of the engine builds on is `Store.put_exclusive`: of any number of writers of a name exactly one wins,
and what it wrote is durable and complete before anybody can see it.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from sam_engine.structures import Partition

TEMPORARY = "_meta/tmp"
SET_ASIDE = "_meta/damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """What a listing says of an object."""

    name: str
    size: int
    """Bytes."""
    modified: float
    """When it was written, in seconds since 1970 by the clock of where it lies."""


class Store(Protocol):
    """Named objects. All methods but `lock` and `hold` are safe to call from any number of processes."""

    @property
    def needs_proof(self) -> bool:
        """Whether `put_exclusive` is as good as a server that may not keep it; see `exclusivity`."""
        ...

    def scan(self, prefix: str, limit: int | None = None) -> Sequence[StoredObject]:
        """Return the objects whose names start with ``prefix``, sorted by name.

        Args:
            prefix: Best a folder's, with its slash: an object store looks through the whole folder.
            limit: Return some so many of them.

        Raises:
            StorageError: They cannot be listed.
        """
        ...

    def list(self, prefix: str, limit: int | None = None) -> list[str]:
        """Return the names of `scan`."""
        ...

    def has(self, name: str) -> bool:
        """Return whether there is an object of that name. Raises `StorageError`."""
        ...

    def read(self, name: str) -> bytes:
        """Return a whole object.

        Raises:
            FileNotFoundError: There is none of that name.
            StorageError: It cannot be read.
        """
        ...

    def open(self, name: str, size: int | None = None) -> BinaryIO:
        """Return a seekable binary file, for reading parts of an object. Raises as `read` does.

        Args:
            name: Of the object.
            size: What `scan` said: it need not be asked for again then.
        """
        ...

    def put_exclusive(self, name: str, data: bytes) -> bool:
        """Create an object unless one of that name exists; return whether this call created it.

        After either answer an object of that name is complete and durable.

        Raises:
            StorageError: Nothing could be written, or it is not certain that it lasts. Calling again is safe.
        """
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Create or overwrite an object in one step. For reports, never for commits."""
        ...

    def set_aside(self, name: str) -> str:
        """Move an object out of the way, never over another; return its new name. For what is damaged.

        Raises:
            StorageError: It is still where it was, or in both places.
        """
        ...

    def delete_temporary(self, name: str) -> None:
        """Delete an object below ``_meta/tmp``, if it is there. Raises `StorageError`."""
        ...

    def delete_own_temporaries(self) -> None:
        """Delete what dead writers left behind. Writers that are alive are not disturbed."""
        ...

    def settle(self) -> None:
        """Make durable what is visible.

        A writer may have been killed between making an object visible and making that last: nobody was told
        that it lasts, but who finds it would take it for lasting.

        Raises:
            StorageError: It is not certain that it lasts.
        """
        ...

    def lock(self, partition: Partition | None = None) -> contextlib.AbstractContextManager[None]:
        """Hold the store against other runs. It saves work; safety comes from `put_exclusive`.

        Args:
            partition: Hold only this part of it: other parts can be held meanwhile, the whole cannot.

        Raises:
            LockedError: Another process holds it.
        """
        ...

    def hold(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold a name against other processes, and nothing but the name. Like `lock` it only saves work.

        Raises:
            LockedError: Another process holds it.
        """
        ...

    def describe(self) -> str:
        """Return where the store is, for messages."""
        ...


def check_name(name: str) -> None:
    """Raise ValueError unless a name is one of an object: it cannot leave the store."""
    if name.startswith("/") or ".." in name.split("/") or "\0" in name or not name:
        raise ValueError(f"{name!r} is no object name: relative POSIX paths without '..' are")


def check_temporary(name: str) -> None:
    """Raise ValueError unless a name is that of something that may be deleted."""
    if not name.startswith(f"{TEMPORARY}/"):
        raise ValueError(f"{name!r} is no temporary: only what lies below {TEMPORARY}/ is deleted")
