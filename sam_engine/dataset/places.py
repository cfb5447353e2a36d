"""Where in a dataset an image's row lies, without reading every footer first."""

import bisect
import threading
from collections import OrderedDict
from dataclasses import dataclass

from sam_engine.dataset.reader import Dataset, read_tables
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX, table_to_records
from sam_engine.dataset.shards import open_shard, shard_errors, shard_index, shard_name
from sam_engine.errors import ShardError
from sam_engine.structures import ImageRecord

MAX_FOOTERS = 4096
"""Kept at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlace:
    """What a footer says of where rows lie."""

    index: int
    start: int
    """First image id."""
    group_rows: tuple[int, ...]
    """Rows of each row group."""

    @property
    def stop(self) -> int:
        """One past the last image id."""
        return self.start + sum(self.group_rows)


class Places:
    """The published shards of a dataset, found by image id. Safe to use from several threads."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._footers: OrderedDict[int, ShardPlace] = OrderedDict()
        self._lock = threading.Lock()

    def published(self) -> list[int]:
        """Return the indices of the shards that are there now, ascending. Lists, reads nothing."""
        names = self._dataset.store.list(ANNOTATIONS_PREFIX)
        return sorted(index for index in map(shard_index, names) if index is not None)

    def place(self, index: int) -> ShardPlace:
        """Return where the rows of a shard lie.

        Raises:
            ShardError: It is unreadable, or of another dataset.
            FileNotFoundError: It is not there.
        """
        with self._lock:
            if index in self._footers:
                self._footers.move_to_end(index)
                return self._footers[index]
        name, store = shard_name(index), self._dataset.store
        with shard_errors(store, name), store.open(name) as source:
            file, fingerprint, summary = open_shard(source)
            metadata = file.metadata
        if fingerprint != self._dataset.fingerprint:
            raise ShardError(f"{name} belongs to another dataset")
        groups = tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        place = ShardPlace(index=index, start=summary.shard.start, group_rows=groups)
        with self._lock:
            self._footers[index] = place
            while len(self._footers) > MAX_FOOTERS:
                self._footers.popitem(last=False)
        return place

    def find(self, image_id: int) -> ImageRecord | None:
        """Return an image's row, or None if it is not published.

        Raises:
            ShardError: The shard that holds it is unreadable.
        """
        place = self.shard_of(image_id)
        if place is None:
            return None
        [record] = self.rows(place, image_id - place.start, 1)
        return record

    def shard_of(self, image_id: int) -> ShardPlace | None:
        """Return the shard that holds an image, or None if it is not published. Raises as `find`."""
        shards = self.published()
        # Ids grow with shards, so a dozen footers tell which of thousands it is.
        number = bisect.bisect_right(shards, image_id, key=lambda index: self.place(index).start) - 1
        if number < 0 or image_id >= self.place(shards[number]).stop:
            return None
        return self.place(shards[number])

    def rows(self, place: ShardPlace, first: int, count: int, *, images: bool = False) -> list[ImageRecord]:
        """Return up to ``count`` rows of a shard from its ``first`` on, with their masks.

        With ``images``, what is stored of images, too.
        """
        records: list[ImageRecord] = []
        begin = 0
        for group, num_rows in enumerate(place.group_rows):
            end = begin + num_rows
            if begin < first + count and end > first:
                [table] = read_tables(
                    self._dataset.store, shard_name(place.index), groups=[group], images=images
                )
                part = table.slice(max(0, first - begin), min(end, first + count) - max(begin, first))
                records += table_to_records(part)
            begin = end
        return records
