"""One file, wherever it lies: under a path of this machine, or an object's URL. Failures are OSErrors."""

import contextlib
import errno
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from sam_engine.errors import StorageError
from sam_engine.storage.bucket import Bucket
from sam_engine.storage.object_file import open_object
from sam_engine.storage.place import is_object_url, split_url

RECENTLY_S = 30.0
"""How old what is known of an object's time may be: images are read by the thousand from one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStatus:
    """What is known of a file that is not open."""

    size: int
    """Bytes."""
    mtime_ns: int


def open_file(place: str) -> io.BufferedReader:
    """Open a file for reading, seekable.

    Raises:
        OSError: It is not there, or cannot be read; EIO where an object store fails.
        ConfigError: The object store has never answered, or refuses.
    """
    if not is_object_url(place):
        return open(place, "rb")
    bucket, name = _object(place)
    with storage_as_os_error():
        return open_object(bucket, name)


def status_of(place: str) -> FileStatus:
    """Return size and time of a file; raises as `open_file`."""
    if not is_object_url(place):
        status = os.stat(place)
        return FileStatus(size=status.st_size, mtime_ns=status.st_mtime_ns)
    bucket, name = _object(place)
    with storage_as_os_error():
        known = bucket.head(name)
    return FileStatus(size=known.size, mtime_ns=round(known.modified * 1e9))


def recent_status_of(place: str) -> FileStatus:
    """Return what `status_of` does; of an object it may be as old as `RECENTLY_S`."""
    if not is_object_url(place):
        return status_of(place)
    return _status_at(place, int(time.monotonic() / RECENTLY_S))


def is_file(place: str) -> bool:
    """Return whether there is a file, or an object of exactly this name. Raises `ConfigError`."""
    if not is_object_url(place):
        return os.path.isfile(place)
    try:
        recent_status_of(place)
    except OSError:
        return False
    return True


def exists(place: str) -> bool:
    """Return whether there is something at a place. Raises `ConfigError`."""
    return is_file(place) if is_object_url(place) else os.path.exists(place)


@contextlib.contextmanager
def storage_as_os_error() -> Iterator[None]:
    """Turn what an object store raises when it fails into an OSError, as a disk would."""
    try:
        yield
    except StorageError as error:
        raise OSError(errno.EIO, str(error)) from error


@lru_cache(maxsize=64)
def _status_at(place: str, _period: int) -> FileStatus:
    return status_of(place)


def _object(url: str) -> tuple[Bucket, str]:
    """Return the bucket and the name of an object; raises FileNotFoundError for what can be none."""
    try:
        bucket, name = split_url(url)
    except ValueError as error:
        raise FileNotFoundError(errno.ENOENT, str(error), url) from error
    if not name:
        raise FileNotFoundError(errno.ENOENT, "a bucket is no file", url)
    return Bucket(bucket), name
