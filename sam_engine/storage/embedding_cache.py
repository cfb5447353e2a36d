"""Embeddings on disk, each image encoded once by a model, with a limit on their bytes.

Several processes may use one folder at once: a file appears whole, under a name that says all that it depends
on, and one that another process has removed meanwhile was not there.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".embedding"
MAX_BYTES = 4 * 2**30
"""Of a folder: some 2,000 images of a vit_*, or 4,000 of tiny."""
MAX_AGE_OF_PARTS_S = 3600.0
"""What a killed process left half written is removed after this time."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingKey:
    """All that an embedding depends on."""

    image_sha256: str
    """Of the image's file."""
    weights: str
    """The sha256 of the checkpoint's file, or for random weights the model's name."""
    precision: str = "fp32"
    """``model.precision``, of the encoder."""
    view: str = ""
    """How the file became pixels, if not as usual: settings of ``decode``, as any text."""

    @property
    def file_name(self) -> str:
        """The name of its file, which starts with the image's digest."""
        rest = "\n".join((self.weights, self.precision, self.view))
        return f"{self.image_sha256}-{hashlib.sha256(rest.encode()).hexdigest()[:16]}{SUFFIX}"


class EmbeddingCache:
    """Embeddings of `embedding_to_bytes` in a folder, the least recently used of which goes first."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        """Note the folder, which is made when first written to."""
        self.folder = folder
        self.max_bytes = max_bytes

    def get(self, key: EmbeddingKey) -> bytes | None:
        """Return the bytes of a key, which is then the most recently used, or None."""
        path = self.folder / key.file_name
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data

    def put(self, key: EmbeddingKey, data: bytes) -> None:
        """Keep bytes under a key, and remove what has not been used for longest if there are too many.

        Raises:
            OSError: They cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # A name of its own: another process may write the same key, and the last to finish wins.
        part = self.folder / f"{key.file_name}.{secrets.token_hex(8)}.part"
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(
                    file.fileno()
                )  # a file of zeros after a loss of power would be an embedding for ever
            part.replace(self.folder / key.file_name)
        finally:
            part.unlink(missing_ok=True)
        self._make_room()

    def _make_room(self) -> None:
        """Remove files until those that are left fit; what is being used now is the last to go."""
        files = sorted(self._files(), key=lambda file: file[1].st_mtime_ns)
        newest = files[-1][1].st_mtime if files else 0.0
        num_bytes = 0
        for path, status in reversed(files):
            num_bytes += status.st_size
            if path.suffix == SUFFIX:
                is_needless = num_bytes > self.max_bytes
            else:  # another process may be writing it
                is_needless = newest - status.st_mtime > MAX_AGE_OF_PARTS_S
            if is_needless:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield embeddings and half-written ones that are still there."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith((SUFFIX, ".part")):
                    with contextlib.suppress(OSError):
                        yield Path(entry.path), entry.stat()


def default_folder() -> Path:
    """Return the folder that programs share on this machine."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "sam-engine" / "embeddings"
