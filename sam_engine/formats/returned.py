"""What comes back from other people's tools, as corrections: which masks were changed, deleted and drawn."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sam_engine.dataset.correction_log import CorrectionLog, latest_time, new_id, read_corrections
from sam_engine.dataset.corrections import (
    CorrectedMask,
    Correction,
    Operation,
    apply_corrections,
    corrected_annotations,
)
from sam_engine.dataset.reader import Dataset
from sam_engine.errors import InputError
from sam_engine.formats.each_image import UNNAMED, name_of
from sam_engine.formats.source import records_to_write
from sam_engine.ops.rle import Runs, area_of, counts_to_runs, runs_to_counts
from sam_engine.structures import ImageRecord


@dataclass(frozen=True, kw_only=True)
class ReturnedMask:
    """A mask as another tool's file has it."""

    id: int | None
    """What it was exported with; None of one that was drawn there."""
    runs: Runs
    name: str | None = None
    """What it is called there; None if the file does not say."""

    def __post_init__(self) -> None:
        """Raise TypeError if the name is no text."""
        if not isinstance(self.name, str | None):
            raise TypeError(f"a mask is called {self.name!r}, which is no text")


@dataclass(frozen=True, kw_only=True)
class ReturnedImage:
    """The masks of one image as another tool's file has them."""

    place: str
    """Of the file, for messages."""
    image_id: int
    size: tuple[int, int]
    """(H, W) of the image."""
    masks: Sequence[ReturnedMask]


@dataclass(kw_only=True)
class ReturnSummary:
    """What was found to be changed, and written to the log."""

    num_images: int = 0
    num_kept: int = 0
    num_replaced: int = 0
    num_deleted: int = 0
    num_added: int = 0
    num_renamed: int = 0
    """Of those that are left."""


def highest_id(dataset: Dataset, root: str | Path) -> int:
    """Return the highest id of all masks that were exported, added ones included; -1 if there are none.

    Args:
        dataset: What was exported.
        root: Its directory, or URL.
    """
    masks = (masks for _, masks in records_to_write(dataset, read_corrections(root)))
    return max((mask.id for each in masks for mask in each if mask.id is not None), default=-1)


def log_differences(
    dataset: Dataset,
    root: str | Path,
    returned: Sequence[ReturnedImage],
    *,
    by: str,
    exhaustive: bool = False,
    dry_run: bool = False,
) -> ReturnSummary:
    """Write the differences of returned images from the dataset, corrected as it is until now, to its log.

    An image of which nothing differs leaves no line, unless it is declared exhaustive. All lines are written
    in one step.

    Args:
        dataset: What was exported.
        root: Its directory, or URL.
        returned: What came back, each image once.
        by: Who corrected.
        exhaustive: Somebody looked at these images as a whole: their masks are right, and none is missing.
        dry_run: Write nothing; the summary says what would have been.

    Raises:
        InputError: An image is not of this dataset, has another size, or names a mask that it never had, or
            one twice.
    """
    by_id = {image.image_id: image for image in returned}
    if len(by_id) != len(returned):
        raise InputError(f"{root}: an image comes back twice")
    before, summary = read_corrections(root), ReturnSummary()
    # All is checked before the first line is written.
    records = {r.image_id: r for r in dataset.checked_records() if r.image_id in by_id}
    plans = []
    for image_id, image in by_id.items():
        record = records.get(image_id)
        if record is None or record.status.is_failure:
            raise InputError(f"{image.place}: image {image_id} was not annotated in {root}")
        if image.size != (record.height, record.width):
            raise InputError(
                f"{image.place}: {image.size[1]} x {image.size[0]} pixels; image {image_id} has "
                f"{record.width} x {record.height}"
            )
        now = _masks_now(record, before.get(image_id, ()))
        plans.append((image, now))
        named = [mask.id for mask in image.masks if mask.id is not None]
        twice = [identifier for identifier, number in Counter(named).items() if number > 1]
        if twice:
            raise InputError(
                f"{image.place}: image {image_id} has mask {min(twice)} twice; a copy needs to lose its id"
            )
        unknown = set(named) - set(now)
        if unknown:
            raise InputError(f"{image.place}: image {image_id} has no mask {min(unknown)}")
    log = CorrectionLog(root, by, after=latest_time(before))
    lines: list[Correction] = []
    for image, now in plans:
        try:
            lines += _differences(log, image, now, summary)
        except ValueError as error:  # of a name that no label can be
            raise InputError(f"{image.place}: {error}") from error
        if exhaustive:
            lines.append(log.line(Operation.ACCEPT, image.image_id))
    if not dry_run:
        log.write(lines)
    return summary


def _masks_now(record: ImageRecord, corrections: Sequence[Correction]) -> dict[int, CorrectedMask]:
    """Return the masks of an image as they are exported now, by the ids that exports give them."""
    exported = [mask.id for mask in corrected_annotations(record, corrections) if mask.id is not None]
    return dict(zip(exported, apply_corrections(record, corrections), strict=True))


def _differences(
    log: CorrectionLog, image: ReturnedImage, now: Mapping[int, CorrectedMask], summary: ReturnSummary
) -> Iterator[Correction]:
    """Yield a line for each mask of an image that differs; count all in the summary."""
    summary.num_images += 1
    there: set[int] = set()
    for mask in image.masks:
        counts = runs_to_counts(mask.runs)
        if mask.id is None:
            drawn = {"size": image.size, "counts": counts, "label": _label(mask.name)}
            yield log.line(Operation.ADD, image.image_id, new_id(), **drawn)
            summary.num_added += 1
            continue
        there.add(mask.id)
        known = now[mask.id]
        if np.array_equal(counts_to_runs(known.counts, image.size), mask.runs):
            summary.num_kept += 1
        else:
            yield log.line(Operation.REPLACE, image.image_id, known.mask_id, size=image.size, counts=counts)
            summary.num_replaced += 1
        if mask.name and mask.name != name_of(known.label):
            yield log.line(Operation.LABEL, image.image_id, known.mask_id, label=_label(mask.name))
            summary.num_renamed += 1
    for identifier in now.keys() - there:
        if not area_of(counts_to_runs(now[identifier].counts, image.size)):
            summary.num_kept += 1  # formats leave masks out that have no pixels
            continue
        yield log.line(Operation.DELETE, image.image_id, now[identifier].mask_id)
        summary.num_deleted += 1


def _label(name: str | None) -> str | None:
    """Return the label that a name of a format stands for."""
    return None if name in (None, "", UNNAMED) else name
