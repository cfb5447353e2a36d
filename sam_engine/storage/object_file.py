"""An object as a seekable file: ranges of it are read as they are wanted, its end in one request."""

import io
from typing import TYPE_CHECKING

from sam_engine.storage.bucket import Bucket

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

END_BYTES = 2**16
"""Read as one: what lies there in Parquet is the footer, which is asked for in small pieces."""
AHEAD_BYTES = 2**16
"""Read behind what is asked for: files are mostly read on."""
MOST_AHEAD_BYTES = 2**23
"""The same of a file that is read on and on: it doubles with each request."""


def open_object(bucket: Bucket, name: str, size: int | None = None) -> io.BufferedReader:
    """Return an object as a file.

    Args:
        bucket: Where it lies.
        name: Of the object.
        size: Its bytes, where they are known from a listing: that saves a request.

    Raises:
        FileNotFoundError: There is none of that name.
        ConfigError, StorageError: The bucket cannot be asked.
    """
    known = bucket.head(name).size if size is None else size
    return io.BufferedReader(_ObjectFile(bucket, name, known), AHEAD_BYTES)


class _ObjectFile(io.RawIOBase):
    """Reads an object. Holds the last range that was read."""

    def __init__(self, bucket: Bucket, name: str, size: int) -> None:
        self._bucket, self._name, self._size = bucket, name, size
        self._position = 0
        self._start, self._data = 0, b""
        self._ahead = AHEAD_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; behind the end there is nothing to read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill the buffer, or less of it near the end. Raises FileNotFoundError, StorageError."""
        view = memoryview(buffer).cast("B")
        stop = min(self._position + len(view), self._size)
        if stop <= self._position:
            return 0
        if not self._start <= self._position < stop <= self._start + len(self._data):
            self._fetch(self._position, stop)
        first = self._position - self._start
        view[: stop - self._position] = self._data[first : first + stop - self._position]
        count, self._position = stop - self._position, stop
        return count

    def _fetch(self, start: int, stop: int) -> None:
        """Read a range, and what is likely to be wanted next."""
        start = min(start, max(0, self._size - END_BYTES)) if start >= self._size - END_BYTES else start
        is_read_on = start == self._start + len(self._data)
        self._ahead = min(2 * self._ahead, MOST_AHEAD_BYTES) if is_read_on else AHEAD_BYTES
        stop = min(stop + self._ahead, self._size)
        self._data = self._bucket.get_range(self._name, start, stop)
        self._start = start
