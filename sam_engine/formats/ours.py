"""Our own datasets as a source of annotated images: masks as people left them, pixels of the originals."""

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from sam_engine.dataset.correction_log import read_corrections
from sam_engine.dataset.corrections import Correction, apply_corrections, in_force, refuse_unknown
from sam_engine.dataset.originals import Originals, open_images
from sam_engine.dataset.reader import open_dataset, read_tables
from sam_engine.dataset.row_problems import record_problems
from sam_engine.dataset.schema import RUN_INFO, table_to_records
from sam_engine.dataset.shards import shard_name
from sam_engine.errors import InputError
from sam_engine.formats.source import (
    AnnotatedImage,
    ReadOptions,
    bad_annotations,
    checked_runs,
)
from sam_engine.storage.anywhere import is_file
from sam_engine.storage.open import open_store
from sam_engine.storage.place import join
from sam_engine.structures import ImageRecord, ImageStatus

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """Where an image lies."""

    image_id: int
    shard: int
    group: int
    """Row group in the shard."""
    place: int
    """Row in the group."""
    licence: str | None = None
    """Of the image, where the dataset knows it."""


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """The images of a dataset that have masks, or were corrected."""

    path: str
    rows: Sequence[Row]
    originals: Originals
    corrections: Mapping[int, Sequence[Correction]]
    """By image id."""

    @property
    def name(self) -> str:
        """Of the directory."""
        return os.path.basename(self.path)

    def __len__(self) -> int:
        return len(self.rows)

    def image_id(self, index: int) -> int:
        """Return the dataset's id."""
        return self.rows[index].image_id

    def licence(self, index: int) -> str | None:
        """Return what the dataset says; where that is nothing, ``data.sources_csv`` may."""
        return self.rows[index].licence

    def read(self, index: int) -> AnnotatedImage:
        """Return an image with its masks; raises as `Source.read`, and `ShardError` for a damaged shard."""
        record = self.record(index)
        for problem in record_problems(record):
            raise bad_annotations(f"{self.path}, image {record.image_id}: {problem}")
        masks = apply_corrections(record, self.corrections.get(record.image_id, ()))
        pixels = self.originals.pixels(record)
        segmentations = [{"size": mask.size, "counts": mask.counts} for mask in masks]
        return AnnotatedImage(
            image_id=record.image_id, pixels=pixels, runs=checked_runs(segmentations, pixels.shape[:2])
        )

    def record(self, index: int) -> ImageRecord:
        """Return an image as the dataset has it, uncorrected."""
        row = self.rows[index]
        table = _row_group(self.path, row.shard, row.group)
        [record] = table_to_records(table.slice(row.place, 1))
        return record


def is_dataset(path: str | Path) -> bool:
    """Return whether a path, or a URL, is a dataset of ours."""
    return is_file(join(os.fspath(path), RUN_INFO))


def open_dataset_source(path: str | Path, options: ReadOptions) -> DatasetSource:
    """Return a dataset as a source.

    Args:
        path: The dataset directory.
        options: Its ``images`` is where they are now, if not where they were: whatever ``input=`` takes.

    Raises:
        ConfigError: It is no dataset; `InputError`, if it has no masks or its images are gone.
        ShardError: It is damaged.
    """
    dataset = open_dataset(path)
    if not options.partial:
        dataset.refuse_half_made("partial=true (in training data.partial=true)")
    corrections = read_corrections(path) if options.corrections == "apply" else {}
    corrected = {image_id for image_id, lines in corrections.items() if in_force(lines)}
    rows = []
    columns = ["image_id", "status", *(name for name in ("licence",) if name in dataset.extras)]
    for shard in sorted(dataset.shards):
        tables = read_tables(dataset.store, shard_name(shard), columns)
        for group, table in enumerate(tables):
            known = [table[name].to_pylist() for name in columns]
            rows += [
                Row(image_id, shard, group, place, *licence)
                for place, (image_id, status, *licence) in enumerate(zip(*known, strict=True))
                if status == ImageStatus.OK or (status == ImageStatus.OK_EMPTY and image_id in corrected)
            ]
    if not rows:
        raise InputError(f"{path}: the dataset has no masks")
    refuse_unknown(dataset, corrections)
    if corrections:
        log.info("%s: corrections of %d images are applied", path, len(corrections))
    originals = open_images(dataset, options.images)
    place = os.fspath(path).rstrip("/")
    return DatasetSource(path=place, rows=rows, originals=originals, corrections=corrections)


@functools.lru_cache(maxsize=8)  # a group is 100 images, and neighbours are rarely drawn together
def _row_group(path: str, shard: int, group: int) -> pa.Table:
    """Return one row group."""
    return next(read_tables(open_store(path), shard_name(shard), groups=[group]))
