"""Images in a Parquet file: in a column of bytes, or named by a column of paths.

Objects here hold only paths; what is expensive to make (a row group) is cached by process.
"""

import functools
import itertools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError, InputError
from sam_engine.inputs.origins import origin_columns, origins_of
from sam_engine.inputs.source import (
    URL,
    Account,
    FileInput,
    InputFile,
    InputSource,
    container_mtime_ns,
    listed,
    located,
    read_file,
    refuse_large,
    refuse_no_path,
    short_name,
    stat_file,
    unreadable,
)
from sam_engine.storage.anywhere import open_file, status_of
from sam_engine.storage.place import is_object_url
from sam_engine.structures import UNKNOWN_ORIGIN, ImageStatus, ManifestEntry, Origin

_BYTES_COLUMNS = ("image", "jpg", "jpeg", "png", "bytes", "image_bytes")
_PATH_COLUMNS = ("path", "file_name", "image_path", "file_path", "filename")
MAX_ROWS = 2**27
"""Of a Parquet file: ten times SA-1B."""
MAX_GROUP_ROWS = 2**20
"""Of a row group of Parquet; pandas writes as many."""
MAX_GROUP_BYTES = 2**31
"""Of a column in a row group, by its footer."""
MAX_PATH_BYTES = 4096
"""Of a path in a column; Linux opens no longer ones."""
_row_group_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class ParquetInput:
    """The images in one column of a Parquet file, named ``file.parquet#row``.

    Sizes are not known beforehand.
    """

    name: str
    root: str
    """The Parquet file itself."""
    column: str
    """Leaf column with the bytes: ``jpg``, or ``image.bytes`` of a Hugging Face image."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Which columns say what of where images come from, by the field of `Origin`."""

    def iter_files(self, account: Account | None = None) -> Iterator[InputFile]:
        """Yield one image a row; of the file itself only the footer is read."""
        return listed(self._walk, f"{self.root!r} has no rows", account)

    def _walk(self, _account: Account) -> Iterator[InputFile]:
        """Yield one image a row."""
        mtime_ns = status_of(self.root).mtime_ns
        prefix = _row_prefix(self.root)
        with _open_columns(self.root, [self.column, *self.origins.values()]) as file:
            num_rows = file.metadata.num_rows
            origins = _origins(file, self.origins) if self.origins else itertools.repeat(UNKNOWN_ORIGIN)
            for row, origin in zip(range(num_rows), origins, strict=False):
                yield InputFile(path=prefix + b"%09d" % row, size=0, mtime_ns=mtime_ns, origin=origin)

    def read(self, entry: ManifestEntry, config: DecodeConfig) -> bytes:
        """Return one row's bytes. A new time of the file is no change: the bytes are hashed."""
        mtime_ns = container_mtime_ns(self.root)
        row = int(entry.path.removeprefix(_row_prefix(self.root)))
        value = self._value(self.column, row, mtime_ns)
        if value is None and self.column.endswith(".bytes"):
            return self._read_beside(row, mtime_ns, entry, config)
        if value is None:
            raise ImageError(ImageStatus.UNREADABLE, "the row holds no image bytes")
        refuse_large(value.as_buffer().size, config)
        return bytes(value.as_py())

    def _value(self, column: str, row: int, mtime_ns: int) -> Any:
        """Return the scalar in a row, not a dictionary's; None if it is null."""
        try:
            with _row_group_lock:
                starts = _row_group_starts(self.root, mtime_ns)
                group = next(index for index in reversed(range(len(starts))) if starts[index] <= row)
                value = _row_group(self.root, mtime_ns, group, column)[row - starts[group]]
        except IndexError:
            raise ImageError(ImageStatus.VANISHED, "the Parquet file no longer holds this row") from None
        except (pa.ArrowException, OSError, InputError) as error:
            raise unreadable(error, " from Parquet") from None
        if not value.is_valid:
            return None
        return value.value if isinstance(value, pa.DictionaryScalar) else value

    def _read_beside(self, row: int, mtime_ns: int, entry: ManifestEntry, config: DecodeConfig) -> bytes:
        """Return the bytes of the file that a row of Hugging Face's names in place of holding them."""
        column = self.column.removesuffix("bytes") + "path"
        names = pq.read_metadata(_source(self.root)).schema
        has_path = column in {names.column(index).path for index in range(len(names))}
        value = self._value(column, row, mtime_ns) if has_path else None
        if value is None:
            raise ImageError(ImageStatus.UNREADABLE, "the row holds no image bytes")
        path = os.fsencode(value.as_py())
        if b"\0" in path or len(path) > MAX_PATH_BYTES or URL.match(os.fsdecode(path)):
            raise ImageError(
                ImageStatus.UNREADABLE, f"the row holds no bytes, and {path[:80]!r} is not a path"
            )
        absolute = located(os.path.dirname(os.fsencode(self.root)), path)
        now = stat_file(absolute, path)
        return read_file(absolute, replace(entry, size=now.size, mtime_ns=now.mtime_ns), config)


def open_parquet(path: str, column: str | None = None) -> InputSource:
    """Return the images of a Parquet file: a column of bytes, or of paths relative to the file's folder.

    Args:
        path: The file.
        column: That holds the images; None for one of the usual names.

    Raises:
        InputError: It is no Parquet file, or has no column known to hold images.
    """
    try:
        schema = pq.read_schema(_source(path))
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"input {path!r} is not a readable Parquet file: {str(error).splitlines()[0]}"
        ) from error
    columns = ", ".join(schema.names)
    typed = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if column is not None and column not in schema.names:
        raise InputError(f"input {path!r} has no column {column!r} (input_column); it has {columns}")
    for name in _BYTES_COLUMNS if column is None else (column,):
        kind = _plain_type(schema.field(name).type) if name in schema.names else pa.null()
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            origins = origin_columns(schema, [*_PATH_COLUMNS, f"{name}.path"])
            return ParquetInput(name=short_name(path), root=path, column=f"{name}.bytes", origins=origins)
        if _is_one_of(kind, "binary", "large_binary", "binary_view"):
            origins = origin_columns(schema, _PATH_COLUMNS)
            return ParquetInput(name=short_name(path), root=path, column=name, origins=origins)
    for name in (*_PATH_COLUMNS, *_BYTES_COLUMNS) if column is None else (column,):
        kind = _plain_type(schema.field(name).type) if name in schema.names else pa.null()
        if _is_one_of(kind, "string", "large_string", "string_view"):
            walk = functools.partial(_walk_path_column, path, name, origin_columns(schema))
            empty = f"{path!r} has no rows"
            return FileInput(name=short_name(path), root=os.path.dirname(path), walk=walk, if_empty=empty)
    if column is not None:
        kind = schema.field(column).type
        raise InputError(
            f"input {path!r}: column {column!r} holds {kind}; images are bytes, or paths as text"
        )
    raise InputError(
        f"input {path!r} has columns {typed}; images are looked for as bytes in "
        f"{', '.join(_BYTES_COLUMNS)} and as paths in {', '.join(_PATH_COLUMNS)}; input_column names another"
    )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return what a dictionary holds; any other type is itself."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_one_of(kind: pa.DataType, *names: str) -> bool:
    """Return whether a type is one of Arrow's by these names."""
    return str(kind) in names


def _origins(file: pq.ParquetFile, columns: Mapping[str, str]) -> Iterator[Origin]:
    """Yield what each row says of where its image comes from."""
    for group in range(file.num_row_groups):  # batches over groups cannot hold parts of structs
        table = file.read_row_group(group, columns=list(columns.values()), use_threads=False)
        for batch in table.to_batches():
            yield from origins_of(batch, columns)


def _walk_path_column(
    path: str, column: str, origins: Mapping[str, str], _account: Account
) -> Iterator[InputFile]:
    """Yield the files that a column of paths names, also those that do not exist."""
    folder = os.path.dirname(os.fsencode(path))
    with _open_columns(path, [column, *origins.values()]) as file:
        for batch in file.iter_batches(columns=[column, *origins.values()]):
            values = batch.column(column)
            longest = pc.max(pc.binary_length(values.dictionary)).as_py() or 0
            if longest > MAX_PATH_BYTES:
                raise InputError(
                    f"input {path!r}: column {column!r} has a path of {longest} bytes; "
                    f"at most {MAX_PATH_BYTES} are read"
                )
            told = origins_of(batch, origins) if origins else itertools.repeat(UNKNOWN_ORIGIN)
            for value, origin in zip(values.to_pylist(), told, strict=False):
                if value is None:
                    raise InputError(f"input {path!r}: column {column!r} has a null")
                refuse_no_path(os.fsencode(value), f"input {path!r}: column {column!r}")
                file_there = stat_file(located(folder, os.fsencode(value)), os.fsencode(value))
                yield replace(file_there, origin=origin)


def _source(path: str) -> str | BinaryIO:
    """Return what pyarrow reads: its own way to a file of this machine, ours to an object."""
    return open_file(path) if is_object_url(path) else path


def _open_columns(path: str, columns: Sequence[str]) -> pq.ParquetFile:
    """Open a Parquet file of a stranger to read some columns of bytes or text, as dictionaries.

    Three hundred bytes can hold one long value and a billion rows that refer to it. As a dictionary that
    stays as small as it is, and the number of rows is bounded here.

    Raises:
        InputError: Its footer claims more than any set of images has.
    """
    file = pq.ParquetFile(_source(path), read_dictionary=list(columns))
    groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    sizes = (
        ("rows", file.metadata.num_rows, MAX_ROWS),
        ("rows in a row group", max((group.num_rows for group in groups), default=0), MAX_GROUP_ROWS),
        *(
            (
                f"bytes of {column} in a row group",
                max((c.total_uncompressed_size for c in chunks if c.path_in_schema == column), default=0),
                MAX_GROUP_BYTES,
            )
            for column in columns
        ),
    )
    for unit, size, limit in sizes:
        if not 0 <= size <= limit:
            file.close()
            raise InputError(f"input {path!r} has {size} {unit}; at most {limit} are read")
    return file


def _row_prefix(path: str) -> bytes:
    """Return what the names of a file's rows start with."""
    return os.fsencode(os.path.basename(path)) + b"#"


@functools.lru_cache(maxsize=4)
def _row_group_starts(path: str, _mtime_ns: int) -> tuple[int, ...]:
    """Return the first row of every row group."""
    metadata = pq.read_metadata(_source(path))
    starts, start = [], 0
    for group in range(metadata.num_row_groups):
        starts.append(start)
        start += metadata.row_group(group).num_rows
    return tuple(starts)


@functools.lru_cache(maxsize=2)
def _row_group(path: str, _mtime_ns: int, group: int, column: str) -> pa.ChunkedArray:
    """Return one column of one row group; neighbours are read soon after."""
    with _open_columns(path, [column]) as file:
        values = file.read_row_group(group, columns=[column]).column(0)
    return (
        values.combine_chunks().field(column.rpartition(".")[2])
        if pa.types.is_struct(values.type)
        else values
    )
