"""What every format is written from: masks as people left them, their names, copies, and the count."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from sam_engine.dataset.corrections import Correction, refuse_unknown
from sam_engine.dataset.originals import Originals
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import display_path
from sam_engine.errors import ImageError
from sam_engine.formats.polygons import PolygonLoss
from sam_engine.formats.source import records_to_write
from sam_engine.structures import Annotation, ImageRecord, Origin

log = logging.getLogger(__name__)

UNNAMED = "object"
"""What formats call masks that nobody named, for they all want a name."""
UNKNOWN_LICENCE = "unknown"
LINEAGE_FIELDS = ("parent_dataset", "parent_image_id")

ImageToWrite = tuple[ImageRecord, list[Annotation], bytes | None]
"""An annotated image, its masks with their ids, and its upright copy as JPEG where that can be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSummary:
    """What went into an export."""

    num_images: int
    num_masks: int
    num_failed: int
    """Images that were not annotated, because they failed; they are left out."""
    num_missing: int = 0
    """Images that the run has not made yet."""
    num_corrected: int = 0
    """Images whose masks people corrected, and that were written so."""
    num_copies: int = 0
    """Images written beside their annotations."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Number of images that could not be copied, by status; their annotations are written all the same."""
    licences: Mapping[str, int] = field(default_factory=dict)
    """Number of images by licence, the most frequent first, `UNKNOWN_LICENCE` among them."""
    polygons: PolygonLoss | None = None
    """What they cost the masks, of formats that have polygons only."""


def origin_of(record: ImageRecord) -> dict[str, Any]:
    """Return what an image was called, and what is known of where it is from and what may be done with it."""
    names = (*(field.name for field in fields(Origin)), *LINEAGE_FIELDS)
    known = {name: getattr(record, name) for name in names}
    return {"original_name": display_path(record.path)} | {
        name: value for name, value in known.items() if value is not None
    }


def name_of(label: str | None) -> str:
    """Return what formats call a mask with this label, in characters that all of them have."""
    shown = "".join(char if char.isprintable() else "\ufffd" for char in label or "")
    return shown if shown.strip() else UNNAMED


def said_of(annotation: Annotation) -> dict[str, Any]:
    """Return what a mask is called and where it is from, as far as there is such a thing."""
    known = {"label": annotation.label, "parent_id": annotation.parent_id}
    return {name: value for name, value in known.items() if value is not None}


def copy_name(image_id: int) -> str:
    """Return what the copy of an image is called: by its id, for its own name may lead anywhere."""
    return f"{image_id:012d}.jpg"


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
        self.dataset = dataset
        self.originals = originals
        self._corrections = corrections or {}
        self._totals: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self._licences: Counter[str] = Counter()
        refuse_unknown(dataset, self._corrections)

    @cached_property
    def has_labels(self) -> bool:
        """A mask may have one: the dataset has the column, or a correction says one."""
        said = (line.label for lines in self._corrections.values() for line in lines)
        return "annotations.label" in self.dataset.extras or any(said)

    @cached_property
    def names(self) -> list[str]:
        """What masks are called, each name once, `UNNAMED` first where some have none.

        Raises:
            ShardError: The dataset is damaged.
        """
        labels: set[str | None] = set()
        for _, masks in records_to_write(self.dataset, self._corrections) if self.has_labels else ():
            labels |= {mask.label for mask in masks}
        names = {name_of(label) for label in labels or {None}}
        return sorted(names, key=lambda name: (name != UNNAMED, name))

    def images(self, *, shards: Iterable[int] | None = None) -> Iterator[ImageToWrite]:
        """Yield images in order of their ids; of some shards, or of all.

        Raises:
            ShardError: The dataset is damaged.
        """
        for record, masks in records_to_write(self.dataset, self._corrections, shards=shards):
            if record.status.is_failure:
                self._totals["failed"] += 1
                continue
            yield record, masks, self._jpeg(record)
            self._totals["images"] += 1
            self._totals["masks"] += len(masks)
            self._totals["corrected"] += record.image_id in self._corrections
            self._licences[record.licence or UNKNOWN_LICENCE] += 1

    def summary(self, polygons: PolygonLoss | None = None) -> ExportSummary:
        """Return what was yielded until now."""
        return ExportSummary(
            num_images=self._totals["images"],
            num_masks=self._totals["masks"],
            num_failed=self._totals["failed"],
            num_missing=self.dataset.num_planned - self.dataset.num_images,
            num_corrected=self._totals["corrected"],
            num_copies=self._totals["copies"],
            missing=dict(sorted(self._missing.items())),
            licences=dict(self._licences.most_common()),
            polygons=polygons,
        )

    def _jpeg(self, record: ImageRecord) -> bytes | None:
        """Return the upright image as JPEG, without metadata; None if it cannot be had, or is not wanted."""
        if self.originals is None:
            return None
        try:
            data = self.originals.jpeg(record)
        except ImageError as error:
            log.debug("image %d: %s", record.image_id, error)
            self._missing[str(error.status)] += 1
            return None
        self._totals["copies"] += 1
        return data
