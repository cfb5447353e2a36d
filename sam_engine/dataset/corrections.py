"""What people say about the masks of a dataset: an append-only log, written by tools and read by training.

Beside the rows, which never change, lie files of JSON lines, one for each sitting of one writer. A line adds,
deletes, replaces or accepts a mask, and says who did it when. The format is in docs/dataset_format.md.
"""

import json
import logging
import os
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import annotation_id
from sam_engine.errors import InputError, RleError
from sam_engine.ops.rle import area_of, bbox_of, counts_to_runs
from sam_engine.structures import Annotation, ImageRecord, ImageStatus

log = logging.getLogger(__name__)

CORRECTIONS_FOLDER = "corrections"
"""In the dataset directory."""
VERSION = 1

MaskId = int | str
"""Of a mask of the dataset its annotation id, of an added one the text that its line gave it."""


class Operation(StrEnum):
    """What a line does."""

    ADD = "add"
    """There is another mask."""
    DELETE = "delete"
    """The mask is none."""
    REPLACE = "replace"
    """The mask is this one instead."""
    ACCEPT = "accept"
    """The mask is right as it stands; without a mask id, all of the image are, and none is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """One line of the log."""

    operation: Operation
    image_id: int
    mask_id: MaskId | None
    """None accepts the image as a whole."""
    size: tuple[int, int] | None = None
    """(H, W) of the upright image; with ``counts``, of added and replaced masks."""
    counts: str | None = None
    """Compressed COCO run lengths."""
    by: str
    """Who said so."""
    time: datetime
    """When, with its offset from UTC."""

    def __post_init__(self) -> None:
        """Check what a line can say.

        Raises:
            ValueError: Something is missing, or the run lengths do not fit the size.
        """
        has_mask = self.operation in (Operation.ADD, Operation.REPLACE)
        if (self.size is not None) != has_mask or (self.counts is not None) != has_mask:
            raise ValueError(f"{self.operation} needs {'a' if has_mask else 'no'} segmentation")
        if self.mask_id is None and self.operation is not Operation.ACCEPT:
            raise ValueError(f"{self.operation} needs a mask_id")
        if self.operation is Operation.ADD and not isinstance(self.mask_id, str):
            raise ValueError(f"the mask_id of an added mask is a text, got {self.mask_id!r}")
        if not self.by.strip():
            raise ValueError("by is empty; it says who made the correction")
        if self.time.tzinfo is None:
            raise ValueError(f"time is {self.time.isoformat()!r}, without an offset from UTC")
        if self.size is not None and self.counts is not None:
            counts_to_runs(self.counts, self.size)

    def to_json(self) -> bytes:
        """Return the line, with its end."""
        document: dict[str, Any] = {
            "version": VERSION,
            "time": self.time.astimezone(UTC).isoformat(timespec="microseconds"),
            "by": self.by,
            "operation": self.operation.value,
            "image_id": self.image_id,
            "mask_id": self.mask_id,
        }
        if self.size is not None:
            document["segmentation"] = {"size": list(self.size), "counts": self.counts}
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedMask:
    """A mask as people left it."""

    mask_id: MaskId
    size: tuple[int, int]
    """(H, W)."""
    counts: str
    """Compressed COCO run lengths."""
    accepted: bool
    """A person drew it, or said that it is right."""


class CorrectionLog:
    """A new file of the log, with one writer. A line is on the disk when the call returns."""

    def __init__(self, dataset: Path, by: str) -> None:
        """Create the file; nothing is written before the first correction.

        Args:
            dataset: The dataset directory.
            by: Who corrects; the name of each line.
        """
        self.by = by
        folder = dataset / CORRECTIONS_FOLDER
        folder.mkdir(exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self.path = folder / f"{stamp}-{secrets.token_hex(4)}.jsonl"
        self._file: BinaryIO = self.path.open("xb")

    def __enter__(self) -> "CorrectionLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, image_id: int, size: tuple[int, int], counts: str) -> str:
        """Say that there is another mask; return its id, for later corrections of it."""
        mask_id = secrets.token_hex(8)
        self._append(Operation.ADD, image_id, mask_id, size, counts)
        return mask_id

    def delete(self, image_id: int, mask_id: MaskId) -> None:
        """Say that a mask is none."""
        self._append(Operation.DELETE, image_id, mask_id)

    def replace(self, image_id: int, mask_id: MaskId, size: tuple[int, int], counts: str) -> None:
        """Say what a mask should have been."""
        self._append(Operation.REPLACE, image_id, mask_id, size, counts)

    def accept(self, image_id: int, mask_id: MaskId | None = None) -> None:
        """Say that a mask is right as it stands; without an id, that all are and none is missing."""
        self._append(Operation.ACCEPT, image_id, mask_id)

    def _append(
        self,
        operation: Operation,
        image_id: int,
        mask_id: MaskId | None,
        size: tuple[int, int] | None = None,
        counts: str | None = None,
    ) -> None:
        """Write one line through to the disk."""
        correction = Correction(
            operation=operation,
            image_id=image_id,
            mask_id=mask_id,
            size=size,
            counts=counts,
            by=self.by,
            time=datetime.now(UTC),
        )
        self._file.write(correction.to_json())
        self._file.flush()
        os.fsync(self._file.fileno())


def read_corrections(dataset: Path) -> dict[int, list[Correction]]:
    """Return all corrections of a dataset by image id, in the order of their times.

    Lines of the same time are in the order of their files' names, and of one file in their order. A last line
    that has no end was being written when its writer died: it is left out, and the log says so.

    Raises:
        InputError: Any other line is malformed, or its run lengths do not fit its size.
    """
    found: list[Correction] = []
    for path in sorted((dataset / CORRECTIONS_FOLDER).glob("*.jsonl")):
        found += _read_file(path)
    by_image: dict[int, list[Correction]] = defaultdict(list)
    for correction in sorted(found, key=lambda correction: correction.time):
        by_image[correction.image_id].append(correction)
    return dict(by_image)


def refuse_unknown(dataset: Dataset, corrections: Mapping[int, Sequence[Correction]]) -> None:
    """Raise `InputError` if there are corrections of an image that was not annotated."""
    unknown = set(corrections)
    for table in dataset.tables(["image_id", "status"]) if unknown else ():
        for image_id, status in zip(table["image_id"].to_pylist(), table["status"].to_pylist(), strict=True):
            if not ImageStatus(status).is_failure:
                unknown.discard(image_id)
    if unknown:
        where = dataset.store.describe()
        raise InputError(f"{where}: there are corrections of image {min(unknown)}, which was not annotated")


def apply_corrections(record: ImageRecord, corrections: Iterable[Correction]) -> tuple[CorrectedMask, ...]:
    """Return the masks of an image as people left them; those of the dataset first, in their order.

    The last word on a mask counts. Accepting or replacing a deleted mask brings it back.

    Args:
        record: The image as the dataset has it.
        corrections: Of this image, in order.

    Raises:
        InputError: One is of a mask that the image does not have, or of another size than the image.
    """
    masks: dict[MaskId, CorrectedMask] = {}
    for index, annotation in enumerate(record.annotations):
        identifier = annotation_id(record.image_id, index)
        masks[identifier] = CorrectedMask(
            mask_id=identifier, size=annotation.size, counts=annotation.counts, accepted=False
        )
    present: set[MaskId] = set(masks)
    for correction in corrections:
        _check_fit(correction, record, masks)
        mask_id = correction.mask_id
        if mask_id is None:
            masks = {key: replace(mask, accepted=True) for key, mask in masks.items()}
        elif correction.operation is Operation.DELETE:
            present.discard(mask_id)
        else:
            if correction.size is not None and correction.counts is not None:
                masks[mask_id] = CorrectedMask(
                    mask_id=mask_id, size=correction.size, counts=correction.counts, accepted=True
                )
            else:
                masks[mask_id] = replace(masks[mask_id], accepted=True)
            present.add(mask_id)
    return tuple(mask for key, mask in masks.items() if key in present)


def corrected_annotations(
    record: ImageRecord, corrections: Sequence[Correction]
) -> list[tuple[int, Annotation]]:
    """Return the masks of an image as people left them, each as a row has it, with its id.

    Masks of the dataset keep their ids, also where others are deleted, and added ones count on. A mask that a
    person drew has a predicted IoU and a stability score of 1; in place of another it keeps that one's points
    and crop, and an added one has no points and the whole image for a crop.

    Raises:
        InputError: As `apply_corrections`.
    """
    own = {annotation_id(record.image_id, i): each for i, each in enumerate(record.annotations)}
    if not corrections:
        return list(own.items())
    found = []
    next_id = annotation_id(record.image_id, len(record.annotations))
    for mask in apply_corrections(record, corrections):
        known = own.get(mask.mask_id) if isinstance(mask.mask_id, int) else None
        if known is not None and known.counts == mask.counts:
            found.append((int(mask.mask_id), known))
            continue
        runs = counts_to_runs(mask.counts, mask.size)
        area = area_of(runs)
        drawn = Annotation(
            size=mask.size,
            counts=mask.counts,
            bbox=bbox_of(runs, mask.size) if area else (0.0, 0.0, 0.0, 0.0),
            area=area,
            predicted_iou=1.0,
            stability_score=1.0,
            crop_box=known.crop_box if known else (0.0, 0.0, float(mask.size[1]), float(mask.size[0])),
            point_coords=known.point_coords if known else (),
            label=known.label if known else None,
            parent_id=known.parent_id if known else None,
        )
        found.append((next_id if known is None else int(mask.mask_id), drawn))
        next_id += known is None
    return found


def _read_file(path: Path) -> Iterator[Correction]:
    """Yield the lines of one file."""
    *lines, rest = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            yield _parse(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RleError) as error:
            raise InputError(f"{path}, line {number}: no correction ({error})") from error
    if rest:
        log.warning("%s: the last line was not finished and is left out", path)


def _parse(document: Mapping[str, Any]) -> Correction:
    """Return what a line says."""
    if document["version"] != VERSION:
        raise ValueError(f"version is {document['version']!r}; {VERSION} is read here")
    image_id, mask_id = document["image_id"], document["mask_id"]
    if not isinstance(image_id, int) or not isinstance(mask_id, int | str | None):
        raise TypeError(f"image_id is {image_id!r} and mask_id {mask_id!r}")
    segmentation = document.get("segmentation")
    size = None
    if segmentation is not None:
        height, width = segmentation["size"]
        size = (height, width)
    return Correction(
        operation=Operation(document["operation"]),
        image_id=image_id,
        mask_id=mask_id,
        size=size,
        counts=None if segmentation is None else segmentation["counts"],
        by=document["by"],
        time=datetime.fromisoformat(document["time"]),
    )


def _check_fit(correction: Correction, record: ImageRecord, masks: Mapping[MaskId, CorrectedMask]) -> None:
    """Raise `InputError` unless a correction can be of this image, of which these masks are known."""
    said = f"the correction of {correction.time.isoformat()} by {correction.by!r}"
    if correction.size is not None and correction.size != (record.height, record.width):
        height, width = correction.size
        raise InputError(
            f"{said} draws a mask of {width} x {height} pixels on image {record.image_id}, "
            f"which has {record.width} x {record.height}"
        )
    is_new = correction.operation is Operation.ADD
    if correction.mask_id is not None and (correction.mask_id in masks) == is_new:
        problem = "adds a mask that is there already" if is_new else "is of a mask that is not there"
        raise InputError(f"{said} {problem}: {correction.mask_id!r} of image {record.image_id}")
