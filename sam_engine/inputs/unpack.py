"""Compressed tars, unpacked once on a machine: a stream has no random access, and SA-1B's tars are gzip.

The plain bytes lie in a cache, keyed by path, size and time of the file, for every process and later runs.
Whoever needs one first makes it, the others wait. What has not been used for weeks goes, and where the disk
gets full what was used longest ago.
"""

import bz2
import gzip
import hashlib
import json
import logging
import lzma
import os
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from sam_engine.errors import InputError
from sam_engine.files import new_file, write_atomically
from sam_engine.storage.anywhere import open_file, recent_status_of, status_of
from sam_engine.storage.place import is_object_url

log = logging.getLogger(__name__)

OPENERS: dict[str, tuple[bytes, Callable[[BinaryIO], Any]]] = {
    "gzip": (b"\x1f\x8b", gzip.open),
    "bzip2": (b"BZh", bz2.open),
    "xz": (b"\xfd7zXZ\x00", lzma.open),
}
"""Magic bytes, and what reads through an open file, by the name of the compression."""
CHUNK_BYTES = 2**20
KEPT_UNUSED_S = 14 * 24 * 3600.0
FREE_FRACTION = 0.05
"""Of the disk, that is never filled."""
BOMB_BYTES = 2**30
BOMB_RATIO = 20
"""More than both is refused: images hardly compress."""


def compression_of(path: str) -> str | None:
    """Return the name of a file's compression by its first bytes; None if it has none that is read."""
    with open_file(path) as file:
        head = file.read(8)
    return next((name for name, (magic, _) in OPENERS.items() if head.startswith(magic)), None)


def plain_file(path: str) -> tuple[str, str | None]:
    """Return where the plain bytes of a file lie, and in what way they are not all of them; None if they are.

    An uncompressed file is its own.

    Raises:
        InputError: There is no room for them, or they are too many to be images.
        OSError: The file cannot be read.
    """
    compression = compression_of(path)
    if compression is None:
        return path, None
    status = recent_status_of(path)
    real = path if is_object_url(path) else os.path.realpath(path)
    identity = f"{real}\0{status.size}\0{status.mtime_ns}"
    plain = cache_folder() / f"{hashlib.sha256(os.fsencode(identity)).hexdigest()[:24]}.tar"
    note = plain.with_suffix(".json")
    try:
        return _found(plain, note)
    except FileNotFoundError:
        pass
    import fcntl  # which not every system has; readers do without

    try:
        plain.parent.mkdir(parents=True, exist_ok=True)
        with plain.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                return _found(plain, note)  # another process was first
            except FileNotFoundError:
                problem = _unpack(path, compression, plain)
                write_atomically(note, json.dumps({"of": ascii(path), "problem": problem}) + "\n")
                return str(plain), problem
    except OSError as error:
        raise InputError(
            f"input {path!r} is {compression} and cannot be unpacked into {plain.parent}: "
            f"{error.strerror or error}; unpack it yourself, or set XDG_CACHE_HOME"
        ) from error


def cache_folder() -> Path:
    """Return the folder of unpacked tars."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "sam-engine" / "unpacked"


def _found(plain: Path, note: Path) -> tuple[str, str | None]:
    """Return what was unpacked before; raises FileNotFoundError."""
    problem = json.loads(note.read_bytes())["problem"]
    os.utime(plain)  # used now
    return str(plain), problem


def _unpack(path: str, compression: str, plain: Path) -> str | None:
    """Write the plain bytes; return in what way they are not all. Memory holds a chunk."""
    _, open_stream = OPENERS[compression]
    packed, written, problem = status_of(path).size, 0, None
    log.info("unpacking %s (%s, %d bytes) into %s", path, compression, packed, plain.parent)
    _make_room(plain.parent, packed)
    with new_file(plain) as file, open_file(path) as source, open_stream(source) as stream:
        while True:
            try:
                chunk = stream.read1(CHUNK_BYTES)
            except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                problem = (
                    f"its {compression} stream is cut or damaged after {written:,} plain bytes ({error})"
                )
                break
            if not chunk:
                break
            if written // 2**26 != (written + len(chunk)) // 2**26:
                _make_room(plain.parent, 2**26)
            written += file.write(chunk)
            if written > max(BOMB_BYTES, BOMB_RATIO * packed):
                raise InputError(
                    f"input {path!r} has {packed:,} bytes and becomes more than {written:,}: images do not "
                    "compress so well; if it is sound, unpack it yourself"
                )
    return problem


def _make_room(folder: Path, num_bytes: int) -> None:
    """Delete what was used longest ago until there is room, and what has not been used for weeks.

    Raises:
        OSError: There is not enough.
    """
    kept = sorted(folder.glob("*.tar"), key=lambda path: path.stat().st_mtime)
    while True:
        disk = shutil.disk_usage(folder)
        is_full = disk.free < num_bytes + FREE_FRACTION * disk.total
        if kept and (is_full or kept[0].stat().st_mtime < time.time() - KEPT_UNUSED_S):
            gone = kept.pop(0)
            log.info("deleting %s, which is used least", gone)
            gone.with_suffix(".json").unlink(missing_ok=True)
            gone.unlink(missing_ok=True)
        elif is_full:
            raise OSError(f"{disk.free:,} bytes are free, {num_bytes:,} are needed beside a reserve")
        else:
            return
