"""What people say about the masks of a dataset: corrections, and what they leave of an image's masks.

Rows never change. Beside them lies a log (`correction_log`) whose lines add, delete, replace, accept or label
a mask, or take back what was said before, and say who did it when. docs/dataset_format.md has the format.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import annotation_id
from sam_engine.errors import InputError
from sam_engine.ops.rle import area_of, bbox_of, counts_to_runs
from sam_engine.structures import Annotation, ImageRecord, ImageStatus

MAX_TEXT = 200
"""Characters of a label, a name of a person, the id or the kind of an act."""

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
    LABEL = "label"
    """The mask is called this; without a label, nothing any more."""
    UNDO = "undo"
    """What the lines of an act say does not count."""
    REDO = "redo"
    """It counts again."""


_ABOUT_ACTS = (Operation.UNDO, Operation.REDO)


class Stage(StrEnum):
    """What a person saw of an image before starting on it: the stages of the data engine."""

    MANUAL = "manual"
    """No masks."""
    SEMI = "semi"
    """The masks that the model is confident of."""
    REVIEW = "review"
    """All masks, to be judged."""


class PromptKind(StrEnum):
    """How a person told a model, or the page, what a mask is."""

    POINT = "point"
    """``coords`` are x and y."""
    BOX = "box"
    """``coords`` are XYXY."""
    STROKE = "stroke"
    """Of a brush, or of an eraser if it is not foreground; its path is not kept."""


_NUM_COORDS = {PromptKind.POINT: 2, PromptKind.BOX: 4, PromptKind.STROKE: 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One of the prompts that a mask was made with."""

    kind: PromptKind
    coords: tuple[float, ...] = ()
    """In pixels of the upright image."""
    foreground: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError if there are not as many finite coordinates as the kind has."""
        if len(self.coords) != _NUM_COORDS[self.kind] or not all(map(math.isfinite, self.coords)):
            raise ValueError(f"a {self.kind} has {_NUM_COORDS[self.kind]} coordinates, got {self.coords}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """One line of the log."""

    operation: Operation
    image_id: int
    mask_id: MaskId | None
    """None accepts the image as a whole, or undoes and redoes an act."""
    size: tuple[int, int] | None = None
    """(H, W) of the upright image; with ``counts``, of added and replaced masks."""
    counts: str | None = None
    """Compressed COCO run lengths."""
    by: str
    """Who said so."""
    time: datetime
    """When, with its offset from UTC."""
    act: str | None = None
    """What one person did in one go, as a merge of two masks: its lines share this id, are undone together.
    Of `Operation.UNDO` and `Operation.REDO` the id of the act that they are about."""
    kind: str | None = None
    """Of the act, in a word: ``merge``, ``split``, ``reject``, ..."""
    label: str | None = None
    """Of added, replaced and labelled masks."""
    stage: Stage | None = None
    time_s: float | None = None
    """Seconds that the person worked on this act; said by one of its lines."""
    prompts: tuple[Prompt, ...] = ()
    """In order, of added and replaced masks."""

    def __post_init__(self) -> None:
        """Check what a line can say.

        Raises:
            ValueError: Something is missing, or the run lengths do not fit the size.
        """
        has_mask = self.operation in (Operation.ADD, Operation.REPLACE)
        about_act = self.operation in _ABOUT_ACTS
        if (self.size is not None) != has_mask or (self.counts is not None) != has_mask:
            raise ValueError(f"{self.operation} needs {'a' if has_mask else 'no'} segmentation")
        if self.mask_id is None and not about_act and self.operation is not Operation.ACCEPT:
            raise ValueError(f"{self.operation} needs a mask_id")
        if about_act and (self.mask_id is not None or self.act is None):
            raise ValueError(f"{self.operation} needs an act and no mask_id")
        if self.operation is Operation.ADD and not isinstance(self.mask_id, str):
            raise ValueError(f"the mask_id of an added mask is a text, got {self.mask_id!r}")
        if self.label is not None and not has_mask and self.operation is not Operation.LABEL:
            raise ValueError(f"{self.operation} needs no label")
        if self.prompts and not has_mask:
            raise ValueError(f"{self.operation} needs no prompts")
        if not self.by.strip():
            raise ValueError("by is empty; it says who made the correction")
        if self.time.tzinfo is None:
            raise ValueError(f"time is {self.time.isoformat()!r}, without an offset from UTC")
        if self.time_s is not None and not (math.isfinite(self.time_s) and self.time_s >= 0):
            raise ValueError(f"time_s is {self.time_s!r}; it must be 0 or more")
        for name, text in (("act", self.act), ("kind", self.kind), ("label", self.label)):
            if text is not None and not (0 < len(text) <= MAX_TEXT and text.isprintable() and text.strip()):
                raise ValueError(f"{name} is {text!r}; it must have 1 to {MAX_TEXT} printable characters")
        if self.size is not None and self.counts is not None:
            counts_to_runs(self.counts, self.size)


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
    label: str | None = None


def undone_acts(corrections: Iterable[Correction]) -> set[str]:
    """Return the acts that do not count, by their last undo or redo."""
    last = {line.act: line.operation for line in corrections if line.operation in _ABOUT_ACTS}
    return {act for act, operation in last.items() if act is not None and operation is Operation.UNDO}


def in_force(corrections: Sequence[Correction]) -> list[Correction]:
    """Return the lines of an image that count: none of undone acts, and none about acts."""
    undone = undone_acts(corrections)
    return [line for line in corrections if line.operation not in _ABOUT_ACTS and line.act not in undone]


def is_exhaustive(corrections: Sequence[Correction]) -> bool:
    """Return whether somebody said of an image that its masks are right and none is missing."""
    return any(line.mask_id is None for line in in_force(corrections))


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

    The last word on a mask counts. Accepting or replacing a deleted mask brings it back, also one whose
    adding was undone.

    Args:
        record: The image as the dataset has it.
        corrections: Of this image, in order.

    Raises:
        InputError: One is of a mask or an act that the image does not have, or of another size.
    """
    corrections = list(corrections)
    undone = undone_acts(corrections)
    masks = _masks_of(record)
    present: set[MaskId] = set(masks)
    acts: set[str | None] = set()
    for correction in corrections:
        _check_fit(correction, record, masks, acts)
        if correction.operation not in _ABOUT_ACTS:
            acts.add(correction.act)
        mask_id = correction.mask_id
        if correction.act in undone or correction.operation in _ABOUT_ACTS:
            if correction.operation is Operation.ADD and mask_id is not None:
                masks[mask_id] = _drawn(correction, mask_id, None)  # known to what others said of it since
        elif mask_id is None:
            masks = {key: replace(mask, accepted=True) for key, mask in masks.items()}
        elif correction.operation is Operation.DELETE:
            present.discard(mask_id)
        elif correction.operation is Operation.LABEL:
            masks[mask_id] = replace(masks[mask_id], label=correction.label)
        else:
            old = masks.get(mask_id)
            masks[mask_id] = (
                replace(masks[mask_id], accepted=True)
                if correction.operation is Operation.ACCEPT
                else _drawn(correction, mask_id, old.label if old else None)
            )
            present.add(mask_id)
    return tuple(mask for key, mask in masks.items() if key in present)


def corrected_annotations(record: ImageRecord, corrections: Sequence[Correction]) -> list[Annotation]:
    """Return the masks of an image as people left them, each as a row has it, with its id.

    Masks of the dataset keep their ids, also where others are deleted, and added ones count on. A mask that a
    person drew has a predicted IoU and a stability score of 1; in place of another it keeps that one's points
    and crop, and an added one has no points and the whole image for a crop.

    Raises:
        InputError: As `apply_corrections`.
    """
    own = {
        (mask_id := annotation_id(record.image_id, index)): replace(mask, id=mask_id)
        for index, mask in enumerate(record.annotations)
    }
    if not corrections:
        return list(own.values())
    found = []
    next_id = annotation_id(record.image_id, len(record.annotations))
    for mask in apply_corrections(record, corrections):
        known = own.get(mask.mask_id) if isinstance(mask.mask_id, int) else None
        if known is not None and known.counts == mask.counts:
            found.append(replace(known, label=mask.label))
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
            label=mask.label,
            parent_id=known.parent_id if known else None,
            id=known.id if known else next_id,
        )
        found.append(drawn)
        next_id += known is None
    return found


def _masks_of(record: ImageRecord) -> dict[MaskId, CorrectedMask]:
    """Return the masks of an image by their ids, as the dataset has them."""
    identified = {annotation_id(record.image_id, i): mask for i, mask in enumerate(record.annotations)}
    return {
        mask_id: CorrectedMask(
            mask_id=mask_id, size=mask.size, counts=mask.counts, accepted=False, label=mask.label
        )
        for mask_id, mask in identified.items()
    }


def _drawn(correction: Correction, mask_id: MaskId, label: str | None) -> CorrectedMask:
    """Return the mask that a person drew; ``label`` is what it was called before."""
    assert correction.size is not None
    assert correction.counts is not None
    return CorrectedMask(
        mask_id=mask_id,
        size=correction.size,
        counts=correction.counts,
        accepted=True,
        label=correction.label if correction.label is not None else label,
    )


def _check_fit(
    correction: Correction,
    record: ImageRecord,
    masks: Mapping[MaskId, CorrectedMask],
    acts: set[str | None],
) -> None:
    """Raise `InputError` unless a correction can be of this image with these masks and acts."""
    said = f"the correction of {correction.time.isoformat()} by {correction.by!r}"
    if correction.size is not None and correction.size != (record.height, record.width):
        height, width = correction.size
        raise InputError(
            f"{said} draws a mask of {width} x {height} pixels on image {record.image_id}, "
            f"which has {record.width} x {record.height}"
        )
    if correction.operation in _ABOUT_ACTS and correction.act not in acts:
        raise InputError(
            f"{said} is of an act that is not there: {correction.act!r} of image {record.image_id}"
        )
    is_new = correction.operation is Operation.ADD
    if correction.mask_id is not None and (correction.mask_id in masks) == is_new:
        problem = "adds a mask that is there already" if is_new else "is of a mask that is not there"
        raise InputError(f"{said} {problem}: {correction.mask_id!r} of image {record.image_id}")
