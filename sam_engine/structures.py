"""The nouns of a dataset: annotation, image record, shard, report. No torch, no pyarrow.

Boxes are XYWH in pixels of the upright image, in SA-1B's convention: the width is ``x_max - x_min`` of
inclusive pixel indices, one less than the number of pixels covered. Points are (x, y). Sizes are (H, W).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import ImageStatus
from sam_engine.ops.rle import decode_counts

__all__ = [
    "ANNOTATIONS_PER_IMAGE",
    "UNKNOWN_ORIGIN",
    "Annotation",
    "ImageRecord",
    "ImageStatus",
    "ManifestEntry",
    "Origin",
    "Partition",
    "Shard",
    "ShardProgress",
    "ShardReport",
    "Xywh",
]

ANNOTATIONS_PER_IMAGE = 65536
"""Annotation ids are ``image_id * ANNOTATIONS_PER_IMAGE + index``."""

Xywh = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One mask, with SA-1B's fields."""

    size: tuple[int, int]
    """(H, W) of the upright image."""
    counts: str
    """Compressed COCO run-length encoding, column-major."""
    bbox: Xywh
    area: int
    """Pixels."""
    predicted_iou: float
    """The model's own estimate. Unbounded: values above 1 happen."""
    stability_score: float
    crop_box: Xywh
    """The crop that the mask was found in."""
    point_coords: tuple[tuple[float, float], ...]
    """The prompts, in pixels of the upright image."""
    label: str | None = None
    """What a person or another program called it; SAM gives none."""
    parent_id: int | None = None
    """Its id in the dataset that this one was derived from."""
    id: int | None = field(default=None, compare=False)
    """In its dataset, where it follows from the image and its place in the list; None where it is in none."""

    def mask(self) -> NDArray[np.bool_]:
        """Return the (H, W) mask, in column-major memory.

        Raises:
            RleError: The run lengths are malformed or do not fit the size, or are of more than 2**28 pixels.
        """
        return decode_counts(self.counts, self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One input image and everything known about it: one row of the dataset."""

    image_id: int
    path: bytes
    """POSIX path relative to the input, as the file system spells it."""
    status: ImageStatus
    width: int | None = None
    """Of the upright image: what masks refer to."""
    height: int | None = None
    exif_orientation: int = 1
    sha256: str | None = None
    """Of the file's bytes; None if they were never read."""
    error: str | None = None
    """One line: why it failed, or what was wrong with an image that was annotated all the same."""
    annotations: tuple[Annotation, ...] = ()
    licence: str | None = None
    attribution: str | None = None
    """Whom to name."""
    source_url: str | None = None
    """Where the image was had."""
    source_key: str | None = None
    """Its name there: the key of a WebDataset sample, an id in a table."""
    frame_time_s: float | None = None
    """Of a video frame: seconds from the start."""
    image: bytes | None = None
    """The image itself, encoded, where it is stored in the row."""
    parent_dataset: str | None = None
    """Fingerprint of the dataset that this one was derived from."""
    parent_image_id: int | None = None
    """Its id there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an image comes from and under which terms, as far as its container or a table says so."""

    licence: str | None = None
    attribution: str | None = None
    """Whom to name."""
    source_url: str | None = None
    """Where the image was had."""
    source_key: str | None = None
    """Its name there: the key of a WebDataset sample, an id in a table."""
    frame_time_s: float | None = None
    """Of a video frame: seconds from the start."""


UNKNOWN_ORIGIN = Origin()


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestEntry:
    """One input file, as it was when the manifest was frozen."""

    image_id: int
    """Row number in the manifest."""
    path: bytes
    """POSIX path relative to the input, as the file system spells it."""
    size: int
    """Bytes."""
    mtime_ns: int
    origin: Origin = UNKNOWN_ORIGIN

    @property
    def was_there(self) -> bool:
        """Whether there was a file of this name when the manifest was frozen."""
        return self.size > 0 or self.mtime_ns != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A contiguous run of the manifest: the unit of work, of commit, of retry and of resume."""

    index: int
    start: int
    """First image id."""
    stop: int
    """One past the last image id."""

    @property
    def num_images(self) -> int:
        """Images in this shard, which is also its number of rows."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardProgress:
    """How far a worker is with its shard; sent before each image, and before the shard is published."""

    shard: Shard
    image_id: int | None
    """The image that the worker takes in hand now; None for all of them, to publish."""
    num_done: int
    """Images of the shard that are done."""
    num_masks: int
    """Found on those."""
    is_alone: bool = True
    """No other image is in hand; otherwise the one before it is too, and a worker may die of either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """What became of one shard. Small, because it is all that travels back from a worker."""

    shard: Shard
    statuses: Mapping[str, int] = field(default_factory=dict)
    """Number of images by `ImageStatus` value; sums to ``shard.num_images`` once published."""
    num_masks: int = 0
    num_bytes: int = 0
    """Size of the published object."""
    sha256: str = ""
    """Of the published object."""
    seconds: float = 0.0
    """Wall time of the worker."""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time by stage, for reports."""
    device: str = ""
    """What the model ran on."""
    worker: str = ""
    """Who made it: ``machine:process``."""
    notes: tuple[str, ...] = ()
    """What a reader of the log should know: settings that had to give way, in a line each."""
    error: str | None = None
    """Set if the shard was given up; nothing was published then."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A driver's part of the shards. Not in the fingerprint: the dataset is the same, whoever made it."""

    index: int = 0
    """Of this driver's part, from 0."""
    count: int = 1
    """Drivers that share the output, one a part; 1: this one makes all shards."""

    @property
    def is_whole(self) -> bool:
        """There is no other driver."""
        return self.count == 1

    def holds(self, shard: Shard) -> bool:
        """Return whether a shard is this driver's: every ``count``-th is, so that all parts are alike."""
        return shard.index % self.count == self.index

    def __str__(self) -> str:
        return f"part {self.index} of {self.count}"
