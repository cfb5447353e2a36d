"""The images that a dataset holds itself (``store_images=true``), found by their ids."""

import threading
from collections import OrderedDict

from sam_engine.dataset.places import Places
from sam_engine.dataset.reader import Dataset, read_tables
from sam_engine.dataset.schema import IMAGE
from sam_engine.dataset.shards import shard_name

CACHED_GROUPS = 4
"""Row groups kept at once, some 16 MB each: who goes through a dataset reads each once."""


class StoredImages:
    """Reads stored images. Safe to use from several threads."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._places = Places(dataset)
        self._groups: OrderedDict[tuple[int, int], list[bytes | None]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, image_id: int) -> bytes | None:
        """Return an image as it is stored, upright JPEG; None if it is not.

        Raises:
            ShardError: The shard that holds it is unreadable.
        """
        found = self._places.shard_of(image_id)
        if found is None:
            return None
        first = found.start
        for group, num_rows in enumerate(found.group_rows):
            if image_id < first + num_rows:
                return self._group(found.index, group)[image_id - first]
            first += num_rows
        return None

    def _group(self, index: int, group: int) -> list[bytes | None]:
        """Return the images of a row group, in order."""
        with self._lock:  # also while reading: several threads would read the same group
            if (index, group) not in self._groups:
                [table] = read_tables(self._dataset.store, shard_name(index), [IMAGE], groups=[group])
                images = [cell and cell["bytes"] for cell in table[IMAGE].to_pylist()]
                self._groups[index, group] = images
                if len(self._groups) > CACHED_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end((index, group))
            return self._groups[index, group]
