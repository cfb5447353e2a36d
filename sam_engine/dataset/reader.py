"""A dataset directory, read without trusting it: row group by row group, page checksums on, sizes bounded.

Nothing here needs torch or Ray. A dataset that is still being written can be read: what is there is whole.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sam_engine.dataset.published import committed_shards
from sam_engine.dataset.row_problems import record_problems
from sam_engine.dataset.schema import (
    ANNOTATIONS_PREFIX,
    IMAGE,
    RUN_INFO,
    SCALAR_COLUMNS,
    display_path,
    extras_of,
    table_to_records,
)
from sam_engine.dataset.shards import ShardSummary, open_shard, shard_errors, shard_index, shard_name
from sam_engine.errors import ConfigError, InputError, ShardError
from sam_engine.storage.open import open_store
from sam_engine.storage.store import Store
from sam_engine.structures import ImageRecord

MAX_GROUP_ROWS = 10_000
"""Images in one row group; we write 100."""
MAX_GROUP_VALUES = 2**26
"""Numbers in one column of one row group."""
MAX_GROUP_BYTES = 2**30
"""Bytes of one row group in memory; we write some tens of MB."""


@dataclass(frozen=True)
class Dataset:
    """A dataset and what its footers say. Made by `open_dataset`."""

    store: Store
    run_info: Mapping[str, Any]
    """The content of ``_meta/run.json``."""

    @property
    def fingerprint(self) -> str:
        """Of the run; in every shard's footer."""
        return str(self.run_info["fingerprint"])

    @cached_property
    def shards(self) -> Mapping[int, ShardSummary]:
        """The published shards by index, from their footers.

        Raises:
            ShardError: One is unreadable or foreign.
        """
        return committed_shards(self.store, self.fingerprint)

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """The optional columns (`schema.EXTRAS`) that its first shard has, and with it all.

        Raises:
            ShardError: It is unreadable.
        """
        names = self.store.list(ANNOTATIONS_PREFIX)
        for index in sorted(index for index in map(shard_index, names) if index is not None):
            name = shard_name(index)
            with self.store.open(name) as source, shard_errors(self.store, name):
                return extras_of(open_shard(source)[0].metadata.schema.to_arrow_schema())
        return ()

    @property
    def num_images(self) -> int:
        """Rows of all published shards."""
        return sum(summary.shard.num_images for summary in self.shards.values())

    @property
    def num_planned(self) -> int:
        """Rows that the run was to make; more than there are while it is under way."""
        return int(self.run_info.get("num_images", self.num_images))

    def refuse_half_made(self, how: str) -> None:
        """Raise `InputError` if rows are missing, unless ``how`` was said to take those that are there."""
        if self.num_images < self.num_planned:
            raise InputError(
                f"{self.store.describe()} is half made: {self.num_images:,} of {self.num_planned:,} images "
                f"are there; finish its run first, or take what is there: {how}"
            )

    @property
    def num_masks(self) -> int:
        """Annotations of all published shards."""
        return sum(summary.num_masks for summary in self.shards.values())

    @property
    def statuses(self) -> Mapping[str, int]:
        """Number of images by status."""
        counts: Counter[str] = Counter()
        for summary in self.shards.values():
            counts.update(summary.statuses)
        return dict(sorted(counts.items()))

    def tables(
        self, columns: Sequence[str] | None = None, *, shards: Iterable[int] | None = None
    ) -> Iterator[pa.Table]:
        """Yield the rows in order of image id, one row group at a time.

        Args:
            columns: To read; None for all but the stored images, optional ones included.
            shards: Indices to read; None for all.

        Raises:
            ShardError: A page fails its checksum, or a row group is larger than any that we would write.
        """
        for index in sorted(self.shards if shards is None else shards):
            yield from read_tables(self.store, shard_name(index), columns)

    def scalars(self) -> Iterator[pa.Table]:
        """Yield all columns but the masks, one row group at a time; the masks are not read."""
        return self.tables(SCALAR_COLUMNS)

    def records(self, *, shards: Iterable[int] | None = None) -> Iterator[ImageRecord]:
        """Yield every image in order of its id, without its stored image; holds one row group in memory.

        Run lengths are not checked here: hand them to `sam_engine.ops.rle`, which does.

        Raises:
            ShardError: As `tables`; or a row does not follow the schema.
        """
        for table in self.tables(shards=shards):
            yield from table_to_records(table)

    def checked_records(self, *, shards: Iterable[int] | None = None) -> Iterator[ImageRecord]:
        """Yield every image in order of its id, with every mask checked against its run lengths.

        Raises:
            ShardError: As `records`; or a row contradicts itself.
        """
        for record in self.records(shards=shards):
            for problem in record_problems(record):
                raise ShardError(
                    f"image {record.image_id} ({display_path(record.path)}): {problem}. "
                    f"See: sam-engine verify {self.store.describe()}"
                )
            yield record


def open_dataset(path: str | Path) -> Dataset:
    """Return the dataset in a directory.

    Raises:
        ConfigError: There is none, or it has no readable ``_meta/run.json``.
    """
    store = open_store(str(path))
    try:
        data = store.read(RUN_INFO)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is not a dataset: it has no {RUN_INFO}") from error
    try:
        run_info = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a dataset: {RUN_INFO} is not JSON ({error})") from error
    if not isinstance(run_info, dict) or not isinstance(run_info.get("fingerprint"), str):
        raise ConfigError(f"{path} is not a dataset: {RUN_INFO} names no fingerprint")
    return Dataset(store, run_info)


def read_tables(
    store: Store,
    name: str,
    columns: Sequence[str] | None = None,
    *,
    groups: Sequence[int] | None = None,
    images: bool = False,
) -> Iterator[pa.Table]:
    """Yield the row groups of one shard; text columns come as dictionaries.

    Args:
        store: Where the shard lies.
        name: Its object name.
        columns: To read; None for all. Leaves may be named as ``annotations.list.element.area``.
        groups: Numbers of the row groups to read; None for all.
        images: With ``columns=None``, read stored images, too: they are most of what a shard holds.

    Raises:
        ShardError: It is unreadable, fails a checksum, or is larger than any that we would write.
    """
    with store.open(name) as source:
        with shard_errors(store, name):
            file, _, _ = open_shard(source)
        if columns is None and not images and IMAGE in (names := file.schema_arrow.names):
            columns = [name for name in names if name != IMAGE]
        for group in range(file.num_row_groups) if groups is None else groups:
            with shard_errors(store, name):
                table = _read_group(file, group, columns)
            yield table


def _read_group(file: pq.ParquetFile, group: int, columns: Sequence[str] | None) -> pa.Table:
    """Return a row group that is not larger than any that we would write; raises as `open_shard`."""
    _check_group_size(file.metadata.row_group(group))
    names = None if columns is None else list(columns)
    table = file.read_row_group(group, columns=names, use_threads=False)
    table.validate(full=True)
    _check_text_size(table)
    return table


def _check_group_size(group: Any) -> None:
    """Raise `ValueError` if a row group says that it is larger than any that we would write."""
    sizes = (
        ("rows", group.num_rows, MAX_GROUP_ROWS),
        ("bytes", group.total_byte_size, MAX_GROUP_BYTES),
        (
            "values",
            max((group.column(i).num_values for i in range(group.num_columns)), default=0),
            MAX_GROUP_VALUES,
        ),
    )
    for unit, size, limit in sizes:
        if not 0 <= size <= limit:
            raise ValueError(f"a row group has {size} {unit}; at most {limit} are read")


def _check_text_size(table: pa.Table) -> None:
    """Raise `ValueError` if the text of a table is larger than any that we would write."""
    for name in table.column_names:
        for column in _texts(table[name]):
            size = 0
            for chunk in column.chunks:
                lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
                size += pc.sum(lengths.take(chunk.indices)).as_py() or 0
            if size > MAX_GROUP_BYTES:
                raise ValueError(
                    f"a row group has {size} bytes of {name}; at most {MAX_GROUP_BYTES} are read"
                )


def _texts(column: pa.ChunkedArray) -> Iterator[pa.ChunkedArray]:
    """Yield a column, or what lies in its lists and structs, where it was read as a dictionary."""
    if pa.types.is_dictionary(column.type):
        yield column
    elif pa.types.is_list(column.type) and pa.types.is_struct(column.type.value_type):
        yield from _texts(pc.list_flatten(column))
    elif pa.types.is_struct(column.type):
        for field in column.type:
            yield from _texts(pc.struct_field(column, [field.name]))
