"""What exporters that write image by image share: masks as people left them, copies, and the count."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from sam_engine.dataset.corrections import Correction, refuse_unknown
from sam_engine.dataset.originals import Originals
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import display_path
from sam_engine.errors import ImageError
from sam_engine.formats.source import ExportSummary, records_to_write
from sam_engine.structures import Annotation, ImageRecord, Origin

log = logging.getLogger(__name__)

ImageToWrite = tuple[ImageRecord, list[tuple[int, Annotation]], bytes | None]
"""An annotated image, its masks with their ids, and its upright copy as JPEG where that can be had."""


def origin_of(record: ImageRecord) -> dict[str, Any]:
    """Return what an image was called, and what is known of where it is from and what may be done with it."""
    known = {field.name: getattr(record, field.name) for field in fields(Origin)}
    return {"original_name": display_path(record.path)} | {
        name: value for name, value in known.items() if value is not None
    }


class ImagesToWrite:
    """The annotated images of a dataset, one by one, and what became of all. One row group is in memory."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        originals: Originals | None = None,
        corrections: Mapping[int, Sequence[Correction]] | None = None,
    ) -> None:
        """Take what is exported.

        Args:
            dataset: Its images that failed are left out and counted.
            originals: Where to take the images from; None for annotations only.
            corrections: By image id, applied to what is written.

        Raises:
            InputError: There are corrections of an image that was not annotated.
        """
        self._dataset = dataset
        self._originals = originals
        self._corrections = corrections or {}
        self._totals: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        refuse_unknown(dataset, self._corrections)

    def images(self, *, shards: Iterable[int] | None = None) -> Iterator[ImageToWrite]:
        """Yield images in order of their ids; of some shards, or of all.

        Raises:
            ShardError: The dataset is damaged.
        """
        for record, masks in records_to_write(self._dataset, self._corrections, shards=shards):
            if record.status.is_failure:
                self._totals["failed"] += 1
                continue
            yield record, masks, self._jpeg(record)
            self._totals["images"] += 1
            self._totals["masks"] += len(masks)
            self._totals["corrected"] += record.image_id in self._corrections

    def summary(self) -> ExportSummary:
        """Return what was yielded until now."""
        return ExportSummary(
            num_images=self._totals["images"],
            num_masks=self._totals["masks"],
            num_failed=self._totals["failed"],
            num_missing=self._dataset.num_planned - self._dataset.num_images,
            num_corrected=self._totals["corrected"],
            num_copies=self._totals["copies"],
            missing=dict(sorted(self._missing.items())),
        )

    def _jpeg(self, record: ImageRecord) -> bytes | None:
        """Return the upright image as JPEG, without metadata; None if it cannot be had, or is not wanted."""
        if self._originals is None:
            return None
        try:
            data = self._originals.jpeg(record)
        except ImageError as error:
            log.debug("image %d: %s", record.image_id, error)
            self._missing[str(error.status)] += 1
            return None
        self._totals["copies"] += 1
        return data
