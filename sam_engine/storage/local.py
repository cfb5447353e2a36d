"""A store in a directory: temporaries that are synced, then linked under their names."""

import contextlib
import errno
import itertools
import json
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from sam_engine.errors import ConfigError, LockedError, StorageError
from sam_engine.storage.exclusive import name_exclusively
from sam_engine.storage.left_behind import DEAD_ELSEWHERE_S, this_host
from sam_engine.storage.store import SET_ASIDE, TEMPORARY, StoredObject, check_name, check_temporary
from sam_engine.structures import Partition

log = logging.getLogger(__name__)

LOCK = "_meta/lock"

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class LocalStore:
    """A directory on a file system with hard links (any POSIX one), or with renames that never replace."""

    root: Path

    def __init__(self, root: str | Path) -> None:
        object.__setattr__(self, "root", Path(root))

    @property
    def needs_proof(self) -> bool:
        """A link is atomic, or there is an error."""
        return False

    def scan(self, prefix: str, limit: int | None = None) -> Sequence[StoredObject]:
        """Return what is known of the objects whose names start with ``prefix``, sorted by name."""
        found = []
        for name in self.list(prefix, limit):
            path = self._path(name)
            try:
                status = path.stat()
            except FileNotFoundError:  # moved away meanwhile
                continue
            except OSError as error:
                raise self._failure(path, error) from error
            found.append(StoredObject(name=name, size=status.st_size, modified=status.st_mtime))
        return found

    def list(self, prefix: str, limit: int | None = None) -> list[str]:
        """Return the sorted names that start with ``prefix``."""
        folder = self._path(prefix.rpartition("/")[0] or ".")
        names: list[str] = []
        try:
            for parent, _, files in os.walk(folder, onerror=_raise_unless_missing):
                relative = Path(parent).relative_to(self.root)
                here = ((relative / file).as_posix() for file in files)
                names += [name for name in here if name.startswith(prefix)]
                if limit is not None and len(names) >= limit:
                    break
        except OSError as error:
            raise self._failure(folder, error) from error
        return sorted(names)[:limit]

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        path = self._path(name)
        try:
            return path.is_file()
        except OSError as error:
            raise self._failure(path, error) from error

    def read(self, name: str) -> bytes:
        """Return a whole object."""
        path = self._path(name)
        with self.open(name) as file:
            try:
                return file.read()
            except OSError as error:
                raise self._failure(path, error) from error

    def open(self, name: str, size: int | None = None) -> BinaryIO:
        """Return a seekable binary file."""
        path = self._path(name)
        try:
            return path.open("rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._failure(path, error) from error

    def put_exclusive(self, name: str, data: bytes) -> bool:
        """Create an object unless one of that name exists; return whether this call created it."""
        path = self._path(name)
        try:
            _make_directory(path.parent)
            with self._temporary(data) as temporary:
                try:
                    created = name_exclusively(temporary, path)
                except OSError as error:
                    if error.errno in _NO_LINKS:
                        raise StorageError(
                            f"{path}: commits need hard links or exclusive renames, and this file system has "
                            f"neither ({error.strerror}); choose an output on another one"
                        ) from error
                    raise
            # Also after losing: the winner may have died before its own fsync.
            self._sync_up_from(path.parent)
        except OSError as error:
            raise self._failure(path, error) from error
        return created

    def replace(self, name: str, data: bytes) -> None:
        """Create or overwrite an object in one step."""
        path = self._path(name)
        try:
            _make_directory(path.parent)
            with self._temporary(data) as temporary:
                temporary.replace(path)
            self._sync_up_from(path.parent)
        except OSError as error:
            raise self._failure(path, error) from error

    def set_aside(self, name: str) -> str:
        """Move an object to ``_meta/damaged``, under its own name and a number."""
        path, folder = self._path(name), self._path(SET_ASIDE)
        try:
            _make_directory(folder)
            for number in itertools.count():
                target = f"{SET_ASIDE}/{path.name}.{number}"
                with contextlib.suppress(FileExistsError):
                    os.link(path, self._path(target))
                    break
            self._sync_up_from(folder)
            path.unlink()
            self._sync_up_from(path.parent)
        except OSError as error:
            raise self._failure(path, error) from error
        return target

    def settle(self) -> None:
        """Sync every folder of the store, and those above it: a killed run may have made them."""
        folder = self.root
        try:
            for parent, _, _ in os.walk(self.root, onerror=_raise_unless_missing):
                folder = Path(parent)
                _fsync_directory(folder)
        except OSError as error:
            raise self._failure(folder, error) from error
        for above in self.root.absolute().parents:
            with contextlib.suppress(OSError):  # not ours: a run could not have made one that it cannot sync
                _fsync_directory(above)

    def delete_temporary(self, name: str) -> None:
        """Delete a file below ``_meta/tmp``."""
        check_temporary(name)
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._failure(path, error) from error

    def delete_own_temporaries(self) -> None:
        """Delete what dead writers left behind: temporaries that no process holds its lock on.

        Some file systems do not show one machine the locks of another: what a writer elsewhere has left is
        taken for dead only when it is old as well.
        """
        folder = self._path(TEMPORARY)
        try:
            for path in sorted(folder.iterdir()) if folder.is_dir() else []:
                _delete_unless_held(path)
        except OSError as error:
            raise self._failure(folder, error) from error

    @contextlib.contextmanager
    def lock(self, partition: Partition | None = None) -> Iterator[None]:
        """Hold ``_meta/lock``; the kernel lets go of it when this process ends, however it ends.

        A part is held by a lock of its own, and by a share of ``_meta/lock``.
        """
        if partition is None or partition.is_whole:
            with self._flock(LOCK, json.dumps(_this_process())):
                yield
            return
        with (
            self._flock(LOCK, json.dumps({"parts": partition.count}), shared=True),
            self._flock(f"{LOCK}-{partition.index}-of-{partition.count}", json.dumps(_this_process())),
        ):
            yield

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold a file beside ``_meta/lock``, as `lock` does."""
        with self._flock(f"{LOCK}-{name}", json.dumps(_this_process())):
            yield

    @contextlib.contextmanager
    def _flock(self, name: str, holder: str, *, shared: bool = False) -> Iterator[None]:
        """Hold a file, or a share of it, in which ``holder`` says for whom."""
        path, fcntl = self._path(name), _file_locks()
        try:
            _make_directory(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failure(path, error) from error
        try:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LockedError(
                    f"{self.describe()}: another run is writing here ({_holder(descriptor)})"
                ) from error
            except OSError as error:
                # Work may be done twice then; commits stay exclusive.
                log.warning("%s cannot be locked (%s); do not start two runs on it", path, error.strerror)
            else:
                with contextlib.suppress(OSError):  # only what another run's message will say
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, holder.encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def describe(self) -> str:
        """Return the directory."""
        return str(self.root)

    def _path(self, name: str) -> Path:
        """Return where the object ``name`` lies; names cannot leave the root."""
        check_name(name)
        return self.root / name

    @contextlib.contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        """Write ``data`` durably under a name nobody else has; it is gone when the block ends.

        The file is locked meanwhile, so that `delete_own_temporaries` can tell it from a dead writer's.
        """
        folder = self._path(TEMPORARY)
        _make_directory(folder)
        descriptor, path = _create_held(folder)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            yield path
        finally:
            try:
                path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)

    def _sync_up_from(self, folder: Path) -> None:
        """Make the entries of a folder last, and its own: another process may have just made it."""
        while folder != self.root:
            _fsync_directory(folder)
            folder = folder.parent
        _fsync_directory(self.root)

    def _failure(self, path: Path, error: OSError) -> StorageError:
        """Return what to raise instead of ``error``: the path, the reason and the space left."""
        return StorageError(f"{path}: {error.strerror or error} ({_free_space(self.root)})")


def _file_locks() -> ModuleType:
    """Return the module of file locks. Late: where there is none, datasets can still be read.

    Raises:
        ConfigError: This system has none.
    """
    try:
        import fcntl
    except ImportError as error:
        raise ConfigError(
            "datasets are written on Linux and macOS: this system has no file locks (fcntl); it can read them"
        ) from error
    return fcntl


def _create_held(folder: Path) -> tuple[int, Path]:
    """Create and lock a new file; return its descriptor and path."""
    fcntl = _file_locks()
    while True:
        path = folder / f"{this_host()}-{uuid.uuid4().hex}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):  # without locks nobody deletes temporaries either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)  # swept up between its creation and its lock


def _delete_unless_held(path: Path) -> None:
    """Delete a temporary unless its writer is alive, or its file system cannot tell."""
    fcntl = _file_locks()
    host = path.name.rpartition("-")[0]
    try:
        if host not in ("", this_host()) and time.time() - path.stat().st_mtime < DEAD_ELSEWHERE_S:
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        log.debug("%s is in use", path)
    else:
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _make_directory(path: Path) -> None:
    """Make a directory and its parents, each durably."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    try:
        path.mkdir()
    except FileExistsError:  # another process was first, or it is a file
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    _fsync_directory(path.parent)


def _fsync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise_unless_missing(error: OSError) -> None:
    """Let `os.walk` report every failure but a folder that is not there."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _this_process() -> dict[str, object]:
    """Return what a lock file says of who holds it."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _holder(descriptor: int) -> str:
    """Return what the lock file says about its holder."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        if "parts" in holder:
            return f"drivers of {holder['parts']} parts"
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its process is not named"


def _free_space(path: Path) -> str:
    """Return how much room the nearest existing directory above ``path`` has, in bytes, as a phrase."""
    for folder in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(folder).free:,} bytes free"
    return "free space unknown"
