"""Bugs that writers have had, to be planted into a victim: a suite that misses one proves nothing.

Each changes the real classes of its process, which ends soon.
"""

import contextlib
import fcntl
import os
import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sam_engine.annotation.segments
import sam_engine.annotation.worker
from sam_engine.dataset.manifest import cut_shards
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX
from sam_engine.errors import StorageError
from sam_engine.storage.local import LocalStore
from sam_engine.structures import Shard

_Put = Callable[[LocalStore, str, bytes], bool]


def _write(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view[:4096]) :]
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Sync a folder and the one above it."""
    for path in (folder, folder.parent):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
        os.close(descriptor)


@contextlib.contextmanager
def _temporary(store: LocalStore, data: bytes, *, sync: bool = True) -> Iterator[Path]:
    """Write a file under a name of its own, and remove it in the end; no other run sweeps it up meanwhile."""
    path = store.root / "_meta/tmp" / uuid.uuid4().hex
    try:
        _write(path, data, sync=sync)
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _only_shards(put: _Put) -> Callable[[], None]:
    """Return what replaces the commit of shards, and of nothing else."""

    def plant() -> None:
        real = LocalStore.put_exclusive

        def put_exclusive(store: LocalStore, name: str, data: bytes) -> bool:
            if not name.startswith(ANNOTATIONS_PREFIX):
                return real(store, name, data)
            try:
                return put(store, name, data)
            except OSError as error:
                raise StorageError(str(error)) from error

        LocalStore.put_exclusive = put_exclusive  # type: ignore[method-assign]

    return plant


def _link(temporary: Path, path: Path) -> bool:
    """Link to a final name; return whether it was free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    return True


def _naive(store: LocalStore, name: str, data: bytes) -> bool:
    """Write straight to the final name."""
    path = store.root / name
    if path.exists():
        return False
    _write(path, data)
    _sync_folder(path.parent)
    return True


def _swallowed_error(store: LocalStore, name: str, data: bytes) -> bool:
    """Go on after a failed write."""
    temporary, path = store.root / "_meta/tmp" / uuid.uuid4().hex, store.root / name
    with contextlib.suppress(OSError):
        _write(temporary, data)
    with contextlib.suppress(OSError):
        _link(temporary, path)
        temporary.unlink()
        _sync_folder(path.parent)
    return True


def _missing_fsync(store: LocalStore, name: str, data: bytes) -> bool:
    """Link a file whose bytes were never synced."""
    path = store.root / name
    with _temporary(store, data, sync=False) as temporary:
        created = _link(temporary, path)
    _sync_folder(path.parent)
    return created


def _fsync_after_rename(store: LocalStore, name: str, data: bytes) -> bool:
    """Sync the bytes when everybody can see them already."""
    path = store.root / name
    with _temporary(store, data, sync=False) as temporary:
        created = _link(temporary, path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)  # O_CREAT, so that the recorder knows the descriptor
    os.fsync(descriptor)
    os.close(descriptor)
    _sync_folder(path.parent)
    return created


def _missing_folder_fsync(store: LocalStore, name: str, data: bytes) -> bool:
    """Promise that a name lasts which was never synced."""
    with _temporary(store, data) as temporary:
        return _link(temporary, store.root / name)


def _replace_instead_of_link(store: LocalStore, name: str, data: bytes) -> bool:
    """Publish by a rename, which overwrites."""
    path = store.root / name
    with _temporary(store, data) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        if not existed:
            temporary.replace(path)
    _sync_folder(path.parent)
    return not existed


def _completion_order() -> None:
    """Number shards in the order in which they happen to be done, and cut what is left anew on resuming."""
    real_publish = sam_engine.annotation.worker.publish_shard

    def publish(store: LocalStore, records: Any, *, shard: Shard, fingerprint: str) -> Any:
        index = len(store.list(ANNOTATIONS_PREFIX))
        return real_publish(store, records, shard=replace(shard, index=index), fingerprint=fingerprint)

    def shuffled(*arguments: int) -> list[Shard]:
        shards = cut_shards(*arguments)
        random.Random(os.getpid()).shuffle(shards)
        return shards

    sam_engine.annotation.worker.publish_shard = publish  # type: ignore[assignment]
    sam_engine.annotation.segments.cut_shards = shuffled


def _no_settling() -> None:
    """Take what a killed run left for lasting."""
    LocalStore.settle = lambda self: None  # type: ignore[method-assign]


BUGS: Mapping[str, Callable[[], None]] = {
    "naive writer": _only_shards(_naive),
    "swallowed error": _only_shards(_swallowed_error),
    "missing fsync": _only_shards(_missing_fsync),
    "fsync after rename": _only_shards(_fsync_after_rename),
    "replace instead of link": _only_shards(_replace_instead_of_link),
    "completion-order shards": _completion_order,
    "missing fsync of the folder": _only_shards(_missing_folder_fsync),
    "nothing settled on resuming": _no_settling,
}
