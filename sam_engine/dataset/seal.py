"""A file's own digests, inside it: one wrong bit anywhere, and the file says so itself.

Page checksums cover what is in pages. They do not cover the footer, statistics, the page index and headers of
pages, and a reader that skips row groups by those loses rows without an error. So the footer has two digests:
``sam_engine.footer_sha256`` is the SHA-256 of the footer, cheap to check whenever a shard is opened, and
``sam_engine.sha256`` that of the whole file. What is digested has zeros where a digest is not known yet: for
the footer's that is both, for the file's its own.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import BinaryIO

FILE_KEY = "sam_engine.sha256"
FOOTER_KEY = "sam_engine.footer_sha256"
BLANK = "0" * 64
"""Either value before the file is sealed."""

_CHUNK_BYTES = 2**20
_MAX_FOOTER_BYTES = 2**26
_TAIL_BYTES = 8
"""After the footer: its length, and a magic word."""
# Thrift's compact protocol: the key's bytes, then the value, which is a string (field 2, type 8) of 64 bytes.
_VALUE = re.compile(b"(" + FILE_KEY.encode() + b"|" + FOOTER_KEY.encode() + rb")\x18\x40([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """A file's SHA-256, and whether it is the file that was sealed."""

    sha256: str
    """Of its bytes as they are, in hex."""
    is_intact: bool


def seal(data: bytes) -> bytes:
    """Return a Parquet file with its digests in place of `BLANK`, which its footer has under both keys."""
    start = len(data) - _TAIL_BYTES - int.from_bytes(data[-8:-4], "little")
    places = _places(data[start:-_TAIL_BYTES])
    footer_digest = hashlib.sha256(data[start:-_TAIL_BYTES]).hexdigest()
    data = _with(data, start + places[FOOTER_KEY], footer_digest)
    return _with(data, start + places[FILE_KEY], hashlib.sha256(data).hexdigest())


def check_footer(file: BinaryIO) -> None:
    """Check the footer of an open file against its digest.

    Raises:
        ValueError: It has none, or another.
    """
    _, footer = _read_footer(file)
    places = _places(footer)
    if places.keys() != {FILE_KEY, FOOTER_KEY}:
        raise ValueError(f"has no {FILE_KEY} and {FOOTER_KEY} in its footer")
    stated = footer[places[FOOTER_KEY] :][: len(BLANK)]
    for place in places.values():
        footer = _with(footer, place, BLANK)
    if hashlib.sha256(footer).hexdigest().encode() != stated:
        raise ValueError(f"has a damaged footer: it does not give its {FOOTER_KEY}")


def read_digest(file: BinaryIO) -> Digest:
    """Return the digest of a file, read once from its beginning to its end; little of it is in memory."""
    try:
        start, footer = _read_footer(file)
        place: int | None = start + _places(footer)[FILE_KEY]
    except (ValueError, KeyError):
        place = None
    size = file.seek(0, 2)
    file.seek(0)
    as_is = hashlib.sha256()
    _feed(as_is, file, size if place is None else place)
    if place is None:
        return Digest(sha256=as_is.hexdigest(), is_intact=False)
    blanked = as_is.copy()
    stated = file.read(len(BLANK))
    as_is.update(stated)
    blanked.update(BLANK.encode())
    while chunk := file.read(_CHUNK_BYTES):
        as_is.update(chunk)
        blanked.update(chunk)
    return Digest(sha256=as_is.hexdigest(), is_intact=blanked.hexdigest().encode() == stated)


def _read_footer(file: BinaryIO) -> tuple[int, bytes]:
    """Return where the footer of a file starts, and the footer.

    Raises:
        ValueError: There is none.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL_BYTES))
    length = int.from_bytes(file.read(4), "little")
    start = size - _TAIL_BYTES - length
    if not 0 < length <= _MAX_FOOTER_BYTES or start < 0:
        raise ValueError("has no footer")
    file.seek(start)
    return start, file.read(length)


def _places(footer: bytes) -> dict[str, int]:
    """Return where the values of our keys start, by key; the last of each, for names of files come before."""
    return {match[1].decode(): match.start(2) for match in _VALUE.finditer(footer)}


def _with(data: bytes, place: int, value: str) -> bytes:
    """Return the data with a value written over it."""
    return data[:place] + value.encode() + data[place + len(value) :]


def _feed(digest: "hashlib._Hash", file: BinaryIO, count: int) -> None:
    """Update a digest with the next ``count`` bytes of a file."""
    while count > 0 and (chunk := file.read(min(count, _CHUNK_BYTES))):
        digest.update(chunk)
        count -= len(chunk)
