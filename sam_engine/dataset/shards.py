"""Shards: rows to Parquet bytes, published once, and what is published read back from the footers.

The file is the commit. Its footer names the run (fingerprint), the shard and its images, so that nothing else
has to be kept in step with it. The bytes hold no time, host or path: same rows, same bytes.
"""

import contextlib
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from sam_engine.dataset.row_problems import record_problems
from sam_engine.dataset.schema import (
    ANNOTATIONS_PREFIX,
    SCHEMA_VERSION,
    display_path,
    extras_of,
    records_to_table,
    row_groups,
)
from sam_engine.dataset.seal import BLANK, FILE_KEY, FOOTER_KEY, Digest, check_footer, read_digest, seal
from sam_engine.errors import ShardError, StorageError
from sam_engine.storage.store import Store
from sam_engine.structures import ImageRecord, Shard

TEXT_COLUMNS = (
    "file_name",
    "path_bytes",
    "sha256",
    "error",
    "licence",
    "attribution",
    "source_url",
    "source_key",
    "image.bytes",
    "image.path",
    "parent_dataset",
    "annotations.list.element.segmentation.counts",
    "annotations.list.element.label",
)
"""Columns, where a shard has them, whose values may be long and many times the same."""

NOT_INTACT = "is not as it was written: its bytes do not give the sha256 in its footer"

_SHARD_NAME = re.compile(r"shard-(\d{6,})\.parquet")
_FOOTER = "sam_engine."
# Dictionaries pay where few values repeat; on counts they would only cost.
_DICTIONARY_COLUMNS = [
    "status",
    "annotations.list.element.segmentation.size.list.element",
    "annotations.list.element.crop_box.list.element",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSummary:
    """What a shard's footer says."""

    shard: Shard
    statuses: Mapping[str, int]
    """Number of images by status; sums to ``shard.num_images``."""
    num_masks: int
    num_bytes: int
    """Size of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedShard:
    """A shard that is now durable under its final name."""

    num_bytes: int
    sha256: str
    """Of the file's bytes."""
    adopted: bool
    """Another writer was first; everything here describes its file."""
    summary: ShardSummary


def shard_name(index: int) -> str:
    """Return the object name of a shard: ``annotations/shard-000000.parquet``."""
    return f"{ANNOTATIONS_PREFIX}shard-{index:06d}.parquet"


def shard_index(name: str) -> int | None:
    """Return the index in an object name, or None if it is not the name of a shard."""
    match = _SHARD_NAME.fullmatch(name.removeprefix(ANNOTATIONS_PREFIX))
    index = int(match[1]) if match else -1
    return index if match and shard_name(index) == name else None


def encode_shard(
    records: Sequence[ImageRecord], *, shard: Shard, fingerprint: str, extras: Collection[str] = ()
) -> bytes:
    """Return the Parquet file of a shard; equal rows give equal bytes with one version of pyarrow.

    Args:
        records: One per image of the shard, in order.
        shard: Which part of the manifest they are.
        fingerprint: Of the run: dataset shards with another one do not belong together.
        extras: Optional columns (`schema.EXTRAS`) of the dataset.

    Raises:
        ShardError: The records are not those of the shard, or one contradicts itself.
    """
    if [record.image_id for record in records] != list(range(shard.start, shard.stop)):
        raise ShardError(
            f"shard {shard.index} must hold one record for each image from {shard.start} to {shard.stop - 1}"
        )
    for record in records:
        for problem in record_problems(record):
            raise ShardError(f"image {record.image_id} ({display_path(record.path)}): {problem}")
    tables = [records_to_table(group, extras) for group in row_groups(records)]
    return encode_tables(
        tables,
        shard=shard,
        fingerprint=fingerprint,
        statuses=Counter(str(record.status) for record in records),
        num_masks=sum(len(record.annotations) for record in records),
    )


def encode_tables(
    tables: Sequence[pa.Table], *, shard: Shard, fingerprint: str, statuses: Mapping[str, int], num_masks: int
) -> bytes:
    """Return the Parquet file of a shard whose rows are Arrow tables already, and known to be sound.

    Args:
        tables: One for each row group, of one schema of `schema_with`.
        shard: Which part of the manifest they are.
        fingerprint: Of the run.
        statuses: Rows by status.
        num_masks: Annotations of all rows.

    Raises:
        ShardError: They read back differently from what was written.
    """
    sink = pa.BufferOutputStream()
    writer = pq.ParquetWriter(
        sink,
        tables[0].schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=_DICTIONARY_COLUMNS,
        write_page_checksum=True,
        write_page_index=True,
    )
    # Not as a context manager: that would finish a footer over half the rows after an exception.
    for table in tables:
        writer.write_table(table, row_group_size=len(table))
    writer.add_key_value_metadata(_footer(shard, fingerprint, statuses, num_masks))
    writer.close()
    data = seal(sink.getvalue().to_pybytes())
    _check_read_back(data, tables, shard)
    return data


def publish_shard(
    store: Store,
    records: Sequence[ImageRecord],
    *,
    shard: Shard,
    fingerprint: str,
    extras: Collection[str] = (),
) -> PublishedShard:
    """Make a shard durable under its final name, unless another writer has; then adopt that one.

    Raises:
        ShardError: The records are not those of the shard, or the name is taken by something else.
        StorageError: It could not be written, or may not last. Calling again is safe.
    """
    data = encode_shard(records, shard=shard, fingerprint=fingerprint, extras=extras)
    name = shard_name(shard.index)
    created = store.put_exclusive(name, data)
    if not created:
        data = store.read(name)
        if not read_digest(io.BytesIO(data)).is_intact:
            raise shard_error(store, name, NOT_INTACT)
    summary = read_summary(io.BytesIO(data), store, name, fingerprint)
    if summary.shard != shard:
        raise shard_error(store, name, f"holds images {summary.shard.start} to {summary.shard.stop - 1}")
    return PublishedShard(
        num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), adopted=not created, summary=summary
    )


def shard_sha256(store: Store, index: int) -> str:
    """Return the digest of a published shard's bytes, in hex.

    Raises:
        ShardError: They are not those that were written.
        StorageError: They cannot be read.
    """
    digest = shard_digest(store, index)
    if not digest.is_intact:
        raise shard_error(store, shard_name(index), NOT_INTACT)
    return digest.sha256


def shard_digest(store: Store, index: int) -> Digest:
    """Return the digest of a published shard, and whether it is as it was written.

    Raises:
        StorageError: It cannot be read.
    """
    name = shard_name(index)
    with store.open(name) as file:
        try:
            return read_digest(file)
        except OSError as error:
            raise StorageError(f"{store.describe()}/{name}: {error}") from error


def success_json(
    summaries: Mapping[int, ShardSummary], digests: Mapping[int, str], *, fingerprint: str
) -> bytes:
    """Return ``_SUCCESS.json``: the totals and every shard with its size and digest.

    Args:
        summaries: All shards of the dataset, by index.
        digests: Their sha256, by index.
        fingerprint: Of the run.
    """
    statuses: Counter[str] = Counter()
    for summary in summaries.values():
        statuses.update(summary.statuses)
    document = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "num_images": sum(summary.shard.num_images for summary in summaries.values()),
        "num_masks": sum(summary.num_masks for summary in summaries.values()),
        "statuses": dict(sorted(statuses.items())),
        "shards": {
            shard_name(index): {"num_bytes": summaries[index].num_bytes, "sha256": digests[index]}
            for index in sorted(summaries)
        },
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def read_footer(metadata: Mapping[bytes, bytes], num_rows: int, num_bytes: int) -> tuple[str, ShardSummary]:
    """Return a footer's fingerprint and what else it says.

    Args:
        metadata: Key-value pairs of the footer.
        num_rows: Rows of the file.
        num_bytes: Size of the file.

    Raises:
        ValueError: A key is missing or malformed, or the pairs contradict each other.
    """
    values = {
        key.decode(): value.decode() for key, value in metadata.items() if key.startswith(_FOOTER.encode())
    }

    def get(key: str) -> str:
        if _FOOTER + key not in values:
            raise ValueError(f"has no {_FOOTER}{key} in its footer")
        return values[_FOOTER + key]

    if get("schema_version") != str(SCHEMA_VERSION):
        raise ValueError(f"has schema version {get('schema_version')}; this program reads {SCHEMA_VERSION}")
    shard = Shard(
        index=int(get("shard")), start=int(get("first_image_id")), stop=int(get("last_image_id")) + 1
    )
    if num_rows != shard.num_images:
        raise ValueError(f"has {num_rows} rows; its footer says {shard.num_images}")
    statuses = json.loads(get("statuses"))
    counts = statuses.values() if isinstance(statuses, dict) else ()
    if not all(isinstance(count, int) for count in counts) or sum(counts) != num_rows:
        raise ValueError("counts its statuses wrongly in its footer")
    summary = ShardSummary(
        shard=shard, statuses=statuses, num_masks=int(get("num_masks")), num_bytes=num_bytes
    )
    return get("fingerprint"), summary


def open_shard(file: BinaryIO) -> tuple[pq.ParquetFile, str, ShardSummary]:
    """Return an open shard, its fingerprint, and what else its footer says. Page checksums are on.

    Long texts are read as dictionaries: 300 bytes can hold one and a billion references to it.

    Raises:
        ValueError: The footer is not as it was written, or is not one of a shard with our columns.
        ArrowException, OSError: It cannot be read.
    """
    check_footer(file)
    metadata = pq.read_metadata(file)
    fingerprint, summary = read_footer(metadata.metadata or {}, metadata.num_rows, file.seek(0, 2))
    extras_of(metadata.schema.to_arrow_schema())
    paths = {metadata.schema.column(number).path for number in range(metadata.num_columns)}
    parquet = pq.ParquetFile(
        file,
        metadata=metadata,
        read_dictionary=[name for name in TEXT_COLUMNS if name in paths],
        page_checksum_verification=True,
    )
    return parquet, fingerprint, summary


@contextlib.contextmanager
def shard_errors(store: Store, name: str) -> Iterator[None]:
    """Turn what reading a shard raises into `ShardError`, or `StorageError` where the disk is at fault."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # Arrow's own complaints have no errno
            raise StorageError(f"{store.describe()}/{name}: {error}") from error
        raise shard_error(store, name, str(error)) from error


def _footer(shard: Shard, fingerprint: str, statuses: Mapping[str, int], num_masks: int) -> dict[str, str]:
    """Return the key-value pairs of the footer; the schema adds its version."""
    values = {
        "fingerprint": fingerprint,
        "shard": str(shard.index),
        "first_image_id": str(shard.start),
        "last_image_id": str(shard.stop - 1),
        "num_masks": str(num_masks),
        "statuses": json.dumps(dict(sorted(statuses.items()))),
    }
    return {**{_FOOTER + key: value for key, value in values.items()}, FILE_KEY: BLANK, FOOTER_KEY: BLANK}


def _check_read_back(data: bytes, tables: Sequence[pa.Table], shard: Shard) -> None:
    """Raise `ShardError` unless the bytes hold exactly the tables."""
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    for group, table in enumerate(tables):
        read = file.read_row_group(group, use_threads=False)
        if not _plain(read).equals(_plain(table)):
            raise ShardError(f"shard {shard.index} reads back differently from what was written")


def _plain(table: pa.Table) -> pa.Table:
    """Return the table with its status as plain text: dictionaries may differ in order."""
    index = table.schema.get_field_index("status")
    return table.set_column(index, "status", table["status"].cast(pa.string()))


def read_summary(source: BinaryIO, store: Store, name: str, fingerprint: str) -> ShardSummary:
    """Return what the footer of an open file says; it must belong to the run.

    Raises:
        ShardError: It is unreadable or foreign.
    """
    with shard_errors(store, name):
        _, found, summary = open_shard(source)
    if found != fingerprint:
        raise shard_error(store, name, f"has fingerprint {found}; this run has {fingerprint}")
    return summary


def shard_error(store: Store, name: str, problem: str) -> ShardError:
    """Return the error that names a file, what is wrong with it, and the tool that tells more."""
    root = store.describe()
    problem = " ".join(problem.split()).rstrip(".")  # Arrow likes line breaks
    return ShardError(f"{root}/{name}: {problem}. See: sam-engine verify {root}")
