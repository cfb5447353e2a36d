"""Files and folders that appear whole or not at all, and errors that name the place; home of ``.part``."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sam_engine.errors import ConfigError, StorageError


@contextlib.contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """Yield a path to write to; the file there gets its name when the block ends, after an exception none.

    For libraries that want a path; `new_file` opens one, and `write_atomically` does the whole.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name when the block ends; after an exception there is none."""
    with new_path(path) as part, part.open("wb") as file:
        yield file


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to write to that gets its name when the block ends; after an exception there is none.

    Raises:
        ConfigError: There is one already that is being written, or was when its program was killed; or
            ``path`` is where a file system is mounted, which nothing can take the place of.
    """
    part = path.with_name(path.name + ".part")
    if path.is_mount():
        raise ConfigError(f"--output {path} is where a file system is mounted; give a folder in it")
    if part.exists():
        raise ConfigError(f"{part} exists: something writes it, or was killed; remove it in that case")
    part.mkdir(parents=True)
    try:
        yield part
        if path.is_dir():
            path.rmdir()
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a whole file, text as UTF-8: whoever opens ``path`` finds what was there before, or all of it.

    Its folder is made if need be. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def writing_to(output: Path) -> Iterator[None]:
    """Turn failures to write below ``output`` into `StorageError`."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or output}: {error.strerror or error}") from error


def refuse_used(output: Path) -> None:
    """Raise `ConfigError` if ``output`` is a file or a folder with something in it."""
    with writing_to(output):
        is_used = any(output.iterdir()) if output.is_dir() else output.exists()
    if is_used:
        raise ConfigError(f"--output {output} exists; choose another place, or remove it")
