"""The manifest: every input file, frozen and sorted before the first image is read.

Row number is image id, contiguous runs of rows are shards. Eleven million rows stay Arrow columns; Python
objects are made only for the rows that are asked for.
"""

import hashlib
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sam_engine.errors import InputError, ShardError
from sam_engine.inputs.source import InputFile
from sam_engine.structures import UNKNOWN_ORIGIN, ManifestEntry, Origin, Shard

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("path_bytes", pa.large_binary(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
    ]
)
ORIGIN_COLUMNS = (
    pa.field("licence", pa.large_string()),
    pa.field("attribution", pa.large_string()),
    pa.field("source_url", pa.large_string()),
    pa.field("source_key", pa.large_string()),
    pa.field("frame_time_s", pa.float64()),
)
"""What may be known of images besides, in this order behind `SCHEMA`; a manifest has those that it knows."""
_TEXTS = ("path_bytes", *(column.name for column in ORIGIN_COLUMNS if column.type == pa.large_string()))
MAX_TEXT_RATIO = 256
"""Texts this many times as long as their Parquet file are an attack; ours are some 10 times as long."""
_MIN_TEXT_BYTES = 2**24
_SELECTION = "sam_engine.selection"
_BATCH_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Manifest:
    """The files of one run, sorted bytewise by path, in segments if it was extended. ``len()``: how many."""

    table: pa.Table
    """Columns of `SCHEMA` and some of `ORIGIN_COLUMNS`, one chunk each, ``image_id`` counting from 0."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def entries(self, start: int, stop: int) -> list[ManifestEntry]:
        """Return the entries with image ids in [start, stop), which must lie inside the manifest."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of a manifest of {len(self)}")
        columns = self.table.slice(start, stop - start).to_pydict()
        rows = zip(*(columns[name] for name in SCHEMA.names), strict=True)
        origins: Iterable[Origin] = itertools.repeat(UNKNOWN_ORIGIN)
        if names := self.extras:
            values = zip(*(columns[name] for name in names), strict=True)
            origins = (Origin(**dict(zip(names, row, strict=True))) for row in values)
        return [
            ManifestEntry(image_id=image_id, path=path, size=size, mtime_ns=mtime_ns, origin=origin)
            for (image_id, path, size, mtime_ns), origin in zip(rows, origins, strict=False)
        ]

    @property
    def extras(self) -> tuple[str, ...]:
        """The names of its `ORIGIN_COLUMNS`: optional columns of the dataset, too."""
        return tuple(self.table.schema.names[len(SCHEMA) :])

    def with_origins(self, origins: Mapping[str, pa.ChunkedArray]) -> "Manifest":
        """Return the manifest with these `ORIGIN_COLUMNS` in place of its own."""
        table = self.table.select(SCHEMA.names)
        for column in ORIGIN_COLUMNS:
            if column.name in origins:
                table = table.append_column(column, origins[column.name].cast(column.type))
        return Manifest(table.combine_chunks())

    def first(self, num_images: int) -> "Manifest":
        """Return the manifest of its first images."""
        return Manifest(self.table.slice(0, num_images).combine_chunks())

    def by_path(self) -> "Manifest":
        """Return it sorted by path as a whole, each file with the image id that it has."""
        return Manifest(self.table.take(pc.sort_indices(self.table["path_bytes"])).combine_chunks())

    def places_in(self, other: "Manifest") -> pa.ChunkedArray:
        """Return where each file is in another manifest, by path; null where it is not."""
        return pc.index_in(self.table["path_bytes"], value_set=other.table["path_bytes"])

    def holds_what(self, other: "Manifest") -> bool:
        """Whether both list the same files with the same sizes, in whatever order."""
        if len(self) != len(other):
            return False
        places = self.places_in(other)
        return not places.null_count and self.table["size"].equals(other.table["size"].take(places))

    def with_times_of(self, other: "Manifest") -> "Manifest":
        """Return it with the modification times that another one has for its files."""
        times = other.table["mtime_ns"].take(self.places_in(other))
        index = self.table.schema.get_field_index("mtime_ns")
        return Manifest(self.table.set_column(index, SCHEMA.field("mtime_ns"), times).combine_chunks())

    def extended_by(self, other: "Manifest") -> "Manifest":
        """Return it with the files behind it that only another one has, in that one's order."""
        new = other.table.filter(pc.is_null(other.places_in(self)))
        table = pa.concat_tables([self.table, new.select(self.table.schema.names)]).combine_chunks()
        image_id = pa.chunked_array([pa.array(np.arange(len(table)))])
        return Manifest(table.set_column(0, SCHEMA.field("image_id"), image_id))

    @cached_property
    def files_sha256(self) -> str:
        """Digest of paths and sizes, whatever library wrote the file.

        Modification times are left out: a copied or freshly checked out folder is the same input.
        """
        digest = hashlib.sha256(f"sam-engine manifest 1\n{len(self)}\n".encode())
        offsets, characters = _text_buffers(self.table, "path_bytes")
        digest.update(np.diff(offsets).astype("<i8").data)
        digest.update(characters.data)
        digest.update(self.table["size"].to_numpy().astype("<i8").data)
        return digest.hexdigest()

    @cached_property
    def sha256(self) -> str:
        """Digest of paths, sizes and what else is known; without the last, `files_sha256`."""
        if not self.extras:
            return self.files_sha256
        digest = hashlib.sha256(f"sam-engine manifest 1\n{self.files_sha256}\n".encode())
        for name in self.extras:
            column = self.table[name]
            digest.update(f"{name}\n".encode())
            digest.update(column.is_valid().to_numpy().astype("u1").data)
            if pa.types.is_floating(column.type):
                digest.update(column.fill_null(0.0).to_numpy().astype("<f8").data)
            else:
                offsets, characters = _text_buffers(self.table, name)
                digest.update(np.diff(offsets).astype("<i8").data)
                digest.update(characters.data)
        return digest.hexdigest()

    def to_bytes(self, selection: Mapping[str, Any] | None = None) -> bytes:
        """Return the manifest as Parquet. The same rows give the same bytes with one version of pyarrow.

        Args:
            selection: How it came about, for `selection_in`; JSON values.
        """
        sink = io.BytesIO()
        metadata = {"sam_engine.manifest_version": "1", "sam_engine.manifest_sha256": self.sha256}
        if selection is not None:
            metadata[_SELECTION] = json.dumps(dict(selection), sort_keys=True)
        pq.write_table(
            self.table.replace_schema_metadata(metadata),
            sink,
            compression="zstd",
            compression_level=3,
            use_dictionary=False,
            write_page_checksum=True,
        )
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Return the manifest that `to_bytes` wrote.

        Raises:
            ShardError: The bytes are damaged, or are no manifest.
        """
        try:
            table = _read_bounded(data)
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"the manifest is unreadable: {str(error).splitlines()[0]}") from error
        written = (table.schema.metadata or {}).get(b"sam_engine.manifest_sha256", b"").decode()
        known = [column for column in ORIGIN_COLUMNS if column.name in table.schema.names]
        if not table.schema.equals(pa.schema([*SCHEMA, *known])):
            raise ShardError(f"not a manifest: columns are {', '.join(table.schema.names)}")
        manifest = cls(table.replace_schema_metadata().combine_chunks())
        if manifest.sha256 != written or not np.array_equal(
            table["image_id"].to_numpy(), np.arange(len(table))
        ):
            raise ShardError(f"the manifest contradicts its own digest {written!r}")
        return manifest


def selection_in(data: bytes) -> dict[str, Any]:
    """Return how the manifest in these bytes came about; empty where they do not say.

    Raises:
        ShardError: The bytes are damaged.
    """
    try:
        metadata = pq.read_metadata(io.BytesIO(data)).metadata or {}
        return dict(json.loads(metadata.get(_SELECTION.encode(), b"{}")))
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise ShardError(f"the manifest is unreadable: {str(error).splitlines()[0]}") from error


def build_manifest(
    files: Iterable[InputFile], *, limit: int | None = None, sample: float | None = None, seed: int = 0
) -> Manifest:
    """Freeze a listing, which may come in any order.

    Args:
        files: Consumed once and never held as a whole.
        limit: Keep only the first so many by path; applied after ``sample``.
        sample: Keep this fraction, at least one. Files are drawn by ``seed`` and path: the order of the
            listing plays no part, and what a smaller fraction draws, a larger one draws too.
        seed: Of the drawing.

    Raises:
        InputError: A path is listed twice, or there is none.
    """
    batches = [pa.table(_columns(rows)) for rows in _batched(files, _BATCH_ROWS)]
    if not batches:
        raise InputError("the input holds no images")
    table = pa.concat_tables(batches, promote_options="default").combine_chunks()
    del batches
    table = table.take(pc.sort_indices(table["path_bytes"])).combine_chunks()
    _refuse_duplicates(table)
    if sample is not None:
        table = table.take(_draw(table, sample, seed)).combine_chunks()
    if limit is not None:
        table = table.slice(0, limit)
    image_id = pa.array(np.arange(table.num_rows))
    plain = table.select(SCHEMA.names[1:]).add_column(0, "image_id", image_id).cast(SCHEMA)
    known = {name: table[name] for name in table.column_names if table[name].null_count < len(table)}
    return Manifest(plain).with_origins(known)


def seeded_hashes(keys: Iterable[bytes], seed: int) -> np.ndarray:
    """Return an (N,) uint64 hash for each key, which depends on nothing but key and seed."""
    salt = seed.to_bytes(16, "little", signed=True)
    hashes = (int.from_bytes(hashlib.blake2b(key, digest_size=8, key=salt).digest()) for key in keys)
    return np.fromiter(hashes, np.uint64)


def iter_paths(table: pa.Table) -> Iterator[bytes]:
    """Yield the paths of a manifest's table in their order, few at once in memory."""
    for batch in table.select(["path_bytes"]).to_batches(max_chunksize=_BATCH_ROWS):
        yield from batch["path_bytes"].to_pylist()


def default_shard_size(num_images: int) -> int:
    """Return 500, or for small inputs what gives 16 shards of at least 4, so that several workers have some.

    It depends on nothing but the input: the same shards must come out whatever machine makes them.
    """
    return min(500, max(4, -(-num_images // 16)))


def stored_shard_size(num_images: int) -> int:
    """Return it for shards that hold images, which are in memory when they are published: at most 100."""
    return min(100, default_shard_size(num_images))


def cut_shards(num_images: int, shard_size: int, start: int = 0, first_index: int = 0) -> list[Shard]:
    """Return the contiguous shards that hold every image from ``start`` on; only the last may be smaller."""
    return [
        Shard(index=index, start=first, stop=min(first + shard_size, num_images))
        for index, first in enumerate(range(start, num_images, shard_size), first_index)
    ]


def _batched(files: Iterable[InputFile], rows: int) -> Iterable[list[InputFile]]:
    """Yield the files in lists of at most ``rows``."""
    remaining = iter(files)
    return iter(lambda: list(itertools.islice(remaining, rows)), [])


def _columns(files: list[InputFile]) -> dict[str, pa.Array]:
    """Return the columns of `SCHEMA` but the image id, and those of `ORIGIN_COLUMNS` that hold anything."""
    columns = {
        "path_bytes": pa.array([file.path for file in files], pa.large_binary()),
        "size": pa.array([file.size for file in files], pa.int64()),
        "mtime_ns": pa.array([file.mtime_ns for file in files], pa.int64()),
    }
    if all(file.origin is UNKNOWN_ORIGIN for file in files):
        return columns
    for column in ORIGIN_COLUMNS:
        values = pa.array([getattr(file.origin, column.name) for file in files], column.type)
        if values.null_count < len(values):
            columns[column.name] = values
    return columns


def _refuse_duplicates(table: pa.Table) -> None:
    """Raise `InputError` if neighbours in the sorted table have one path."""
    paths = table["path_bytes"]
    same = pc.equal(paths.slice(1), paths.slice(0, max(len(paths) - 1, 0)))
    first = pc.index(same, True).as_py()
    if first >= 0:
        count = pc.sum(same).as_py()
        raise InputError(
            f"{ascii(paths[first].as_py())[2:-1]} is listed more than once ({count} repeats in all)"
        )


def _draw(table: pa.Table, fraction: float, seed: int) -> np.ndarray:
    """Return the sorted row numbers whose seeded path hashes are the smallest."""
    hashes = seeded_hashes(iter_paths(table), seed)
    count = max(1, round(fraction * len(hashes)))
    return np.sort(np.argsort(hashes, kind="stable")[:count])


def _read_bounded(data: bytes) -> pa.Table:
    """Read a manifest whose text may be a bomb: few bytes that stand for very many. One chunk a column.

    A row group at a time, then a column at a time: of eleven million paths no more is held twice than one of
    them.

    Raises:
        ArrowException, OSError: It is not Parquet, or its paths are much longer than the file.
    """
    source = pa.BufferReader(data)
    texts = [name for name in pq.read_schema(source).names if name in _TEXTS]
    file = pq.ParquetFile(source, read_dictionary=texts, page_checksum_verification=True)
    schema, sizes = _plain(file.schema_arrow), Counter[str]()
    parts: list[list[pa.ChunkedArray]] = [[] for _ in schema]
    for number in range(file.num_row_groups):
        group = file.read_row_group(number)
        for field, column, part in zip(schema, group.columns, parts, strict=True):
            if field.name in _TEXTS and pa.types.is_dictionary(column.type):
                sizes[field.name] += sum(map(_num_bytes, column.chunks))
                _refuse_bomb(field.name, sizes[field.name], len(data))
            part.append(column.cast(field.type))
        del group
    return pa.Table.from_arrays([_joined(parts.pop(0), field.type) for field in schema], schema=schema)


def _plain(schema: pa.Schema) -> pa.Schema:
    """Return a schema with texts as they are used, which were read as dictionaries."""
    for index, field in enumerate(schema):
        if field.name in _TEXTS and pa.types.is_dictionary(field.type):
            plain = pa.large_binary() if field.name == "path_bytes" else pa.large_string()
            schema = schema.set(index, pa.field(field.name, plain, nullable=field.nullable))
    return schema


def _num_bytes(chunk: pa.DictionaryArray) -> int:
    """Return how long the texts of a column are in all."""
    lengths = pc.binary_length(chunk.dictionary).cast(pa.int64()).take(chunk.indices)
    return pc.sum(lengths).as_py() or 0


def _refuse_bomb(name: str, size: int, file_size: int) -> None:
    """Raise `pa.ArrowInvalid` if a column is too large for the file that it is in."""
    limit = max(_MIN_TEXT_BYTES, MAX_TEXT_RATIO * file_size)
    if size > limit:
        what = "paths have" if name == "path_bytes" else f"column {name} has"
        raise pa.ArrowInvalid(f"its {what} {size} bytes; at most {limit} are read of this file")


def _joined(parts: list[pa.ChunkedArray], kind: pa.DataType) -> pa.Array:
    """Return one array of those of several row groups."""
    arrays = [chunk for part in parts for chunk in part.chunks]
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays) if arrays else pa.array([], kind)


def _text_buffers(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a column's (N + 1,) offsets and its bytes, without copies, honouring slices; nulls are empty."""
    column = table[name].fill_null("") if table[name].null_count else table[name]
    paths = column.combine_chunks()
    if isinstance(
        paths, pa.ChunkedArray
    ):  # what combine_chunks() makes of a column depends on pyarrow's version
        paths = paths.chunk(0) if paths.num_chunks else pa.array([], pa.large_binary())
    if not len(paths):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    _validity, offsets_buffer, data_buffer = paths.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[paths.offset : paths.offset + len(paths) + 1]
    characters = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    return offsets, characters[offsets[0] : offsets[-1]]
