"""Datasets that others are made of: opened whole, identified by what is in them, read by image id."""

import bisect
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sam_engine.dataset.correction_log import read_corrections, to_line
from sam_engine.dataset.corrections import Correction, refuse_unknown
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.places import Places
from sam_engine.dataset.reader import Dataset, open_dataset
from sam_engine.dataset.schema import MANIFEST, SUCCESS
from sam_engine.dataset.verify import foundation_problems, recorded_digests
from sam_engine.errors import InputError, ShardError
from sam_engine.inputs.source import short_name
from sam_engine.storage.place import absolute
from sam_engine.structures import ImageRecord


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A finished dataset, its frozen listing and what people said about it. Made by `open_parent`."""

    path: str
    """Or URL."""
    dataset: Dataset
    manifest: Manifest
    corrections: Mapping[int, Sequence[Correction]]
    """By image id; those that are to be applied."""

    @property
    def name(self) -> str:
        """Of the directory."""
        return short_name(absolute(self.path), keep_extension=True)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of its run."""
        return dict(self.dataset.run_info.get("settings") or {})

    @property
    def selection(self) -> Mapping[str, Any]:
        """Where its images were."""
        return dict(self.dataset.run_info.get("selection") or {})

    @cached_property
    def rows_sha256(self) -> str:
        """Digest of its shards by ``_SUCCESS.json``: with a shard made anew it is another parent."""
        return hashlib.sha256(json.dumps(sorted(recorded_digests(self.dataset).items())).encode()).hexdigest()

    @cached_property
    def corrections_sha256(self) -> str | None:
        """Digest of the corrections that are applied; None if there are none."""
        if not self.corrections:
            return None
        lines = [to_line(line) for _, said in sorted(self.corrections.items()) for line in said]
        return hashlib.sha256(b"".join(lines)).hexdigest()

    @property
    def gives_labels(self) -> bool:
        """Whether what people said calls a mask something."""
        return any(line.label is not None for said in self.corrections.values() for line in said)

    def scalars(self) -> Iterator[dict[str, Any]]:
        """Yield every row without its masks, as a dictionary, in order of image id."""
        for table in self.dataset.scalars():
            yield from table.to_pylist()


class RecordReader:
    """The rows of a dataset by image id; holds one row group, so that ascending ids read each once."""

    def __init__(self, dataset: Dataset) -> None:
        self._places = Places(dataset)
        shards = sorted((summary.shard.start, index) for index, summary in dataset.shards.items())
        self._starts = [start for start, _ in shards]
        self._indices = [index for _, index in shards]
        self._first = 0
        self._group: list[ImageRecord] = []

    def __getitem__(self, image_id: int) -> ImageRecord:
        """Return a row, as it lies there.

        Raises:
            ShardError: Its shard is damaged, or the row is not where its id says.
        """
        if not 0 <= image_id - self._first < len(self._group):
            self._load(image_id)
        record = self._group[image_id - self._first]
        if record.image_id != image_id:
            raise ShardError(
                f"image {record.image_id} lies where image {image_id} is due; verify the dataset"
            )
        return record

    def _load(self, image_id: int) -> None:
        """Read the row group that holds an image."""
        place = self._places.place(self._indices[bisect.bisect_right(self._starts, image_id) - 1])
        first = place.start
        for num_rows in place.group_rows:
            if image_id < first + num_rows:
                break
            first += num_rows
        self._first, self._group = first, self._places.rows(place, first - place.start, num_rows, images=True)


def open_parent(path: str | Path, *, corrections: bool = True) -> Parent:
    """Return a dataset that another may be made of.

    Args:
        path: Its directory.
        corrections: Whether what people said about it is applied.

    Raises:
        ConfigError: It is no dataset; `InputError`, if it is half made or corrected where nothing is.
        ShardError: Its settings or its manifest are damaged.
    """
    dataset = open_dataset(path)
    for problem in foundation_problems(dataset):
        raise ShardError(f"{path}: {problem}")
    if not dataset.store.has(SUCCESS) or dataset.num_images != dataset.num_planned:
        raise InputError(
            f"{path} is half made: {dataset.num_images:,} of {dataset.num_planned:,} images are there, and "
            f"{SUCCESS} is {'there' if dataset.store.has(SUCCESS) else 'missing'}; finish its run first"
        )
    said = read_corrections(path) if corrections else {}
    refuse_unknown(dataset, said)
    return Parent(
        path=os.fspath(path),
        dataset=dataset,
        manifest=Manifest.from_bytes(dataset.store.read(MANIFEST)),
        corrections=said,
    )
