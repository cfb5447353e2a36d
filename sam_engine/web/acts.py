"""What a page says in one go: read from its request, held against what was said before. Pure functions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sam_engine.dataset.correction_log import prompts_from_json
from sam_engine.dataset.corrections import MAX_TEXT, Correction, Operation, Stage, is_exhaustive
from sam_engine.errors import InputError, RleError

NOT_YET = datetime.min.replace(tzinfo=UTC)
"""Time of lines that are not written yet."""
_ABOUT_ACTS = (Operation.UNDO, Operation.REDO)
_ID = re.compile(r"[0-9a-f]{16}")


class ConflictError(InputError):
    """What a page says rests on a state of the image that others have changed meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """Lines about one image that one person says in one go. Made by `parse_act`."""

    by: str
    seen: int
    """How many lines about the image the page has seen."""
    lines: Sequence[Correction]
    """At least one; all with the act's id, which the page chose, so that it can say an act again whose answer
    was lost. An undo or redo is alone, with the id of the act that it is about."""

    @property
    def id(self) -> str:
        """Of the act."""
        assert self.lines[0].act is not None
        return self.lines[0].act

    @property
    def is_about_act(self) -> bool:
        """Whether it undoes or redoes another."""
        return self.lines[0].operation in _ABOUT_ACTS


def parse_act(document: Mapping[str, Any], image_id: int) -> Act:
    """Return the act that a page sent.

    Args:
        document: ``by``, ``seen``, ``act`` (16 hex digits), ``lines``, and perhaps ``kind``, ``stage`` and
            ``time_s``. A line has an ``operation`` and, as that needs them, ``mask_id``, ``segmentation``
            (``size`` and ``counts``), ``label`` and ``prompts``.
        image_id: Of the image that it is about.

    Raises:
        ValueError: It is not of this form.
    """
    by, seen, lines = document.get("by"), document.get("seen"), document.get("lines")
    if not is_name(by):
        raise ValueError(f"by is {by!r}; it is the annotator's name")
    if type(seen) is not int or not 0 <= seen < 2**53:
        raise ValueError(f"seen is {seen!r}; it is the revision that the page has")
    if not isinstance(lines, list) or not lines or not all(isinstance(line, dict) for line in lines):
        raise ValueError("lines is a list of at least one object")
    shared = {"by": by, "image_id": image_id, "act": _hex_id(document.get("act"), "act")}
    try:
        stage, time_s = document.get("stage"), document.get("time_s")
        shared |= {"kind": document.get("kind"), "stage": None if stage is None else Stage(stage)}
        parsed = [
            _parse_line(line, shared | {"time_s": float(time_s) if time_s is not None and not i else None})
            for i, line in enumerate(lines)
        ]
    except (RleError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"no act: {error}") from error
    if len(parsed) > 1 and any(line.operation in _ABOUT_ACTS for line in parsed):
        raise ValueError("undo and redo are acts of their own")
    return Act(by=parsed[0].by, seen=seen, lines=parsed)


def is_name(by: object) -> bool:
    """Return whether a value can be an annotator's name."""
    return isinstance(by, str) and bool(by.strip()) and len(by) <= MAX_TEXT and by.isprintable()


def own_acts(said: Sequence[Correction], by: str) -> tuple[list[str], list[str]]:
    """Return the acts that somebody can undo, and those that can be redone, the next one last.

    A new act forgets what could be redone.
    """
    done: list[str] = []
    undone: list[str] = []
    for line in said:
        if line.by != by or line.act is None:
            continue
        if line.operation is Operation.UNDO and line.act in done:
            done.remove(line.act)
            undone.append(line.act)
        elif line.operation is Operation.REDO and line.act in undone:
            undone.remove(line.act)
            done.append(line.act)
        elif line.operation not in _ABOUT_ACTS and line.act not in done:
            done.append(line.act)
            undone.clear()
    return done, undone


def state_of(said: Sequence[Correction], by: str) -> dict[str, Any]:
    """Return what a page must know of an image besides its masks."""
    done, undone = own_acts(said, by)
    return {
        "revision": len(said),
        "exhaustive": is_exhaustive(said),
        "undo": done[-1] if done else None,
        "redo": undone[-1] if undone else None,
    }


def is_said(act: Act, said: Sequence[Correction]) -> bool:
    """Return whether an act is written down already: its answer was lost."""
    if not act.is_about_act:
        return any(line.act == act.id and line.operation not in _ABOUT_ACTS for line in said)
    words = [line.operation for line in said if line.act == act.id and line.operation in _ABOUT_ACTS]
    return bool(words) and words[-1] is act.lines[0].operation


def refuse_conflict(act: Act, said: Sequence[Correction]) -> None:
    """Raise unless all that an act is about is as the page saw it.

    A mask that is added touches no other; an image as a whole is touched by each line about it.

    Raises:
        ConflictError: Somebody was faster.
        InputError: It is another person's act that is to be undone.
    """
    about = [line for line in said if line.act == act.id] if act.is_about_act else list(act.lines)
    others = {line.by for line in about} - {act.by}
    if others:
        raise InputError(f"that was done by {others.pop()}, who alone can undo it")
    touched = {line.mask_id for line in about if act.is_about_act or line.operation is not Operation.ADD}
    for line in said[act.seen :]:
        if None in touched or line.mask_id is None or line.mask_id in touched:
            raise ConflictError(f"{line.by} changed this image meanwhile; it is shown anew")


def _parse_line(line: Mapping[str, Any], shared: Mapping[str, Any]) -> Correction:
    """Return one line of an act; raises what `parse_act` expects."""
    operation, mask_id = Operation(str(line.get("operation"))), line.get("mask_id")
    if operation is Operation.ADD:
        mask_id = _hex_id(mask_id, "the mask_id of an added mask")
    elif mask_id is not None and type(mask_id) not in (int, str):
        raise ValueError(f"mask_id is {mask_id!r}")
    segmentation, size, counts = line.get("segmentation"), None, None
    if segmentation is not None:
        height, width = segmentation["size"]
        size, counts = (int(height), int(width)), str(segmentation["counts"])
    return Correction(
        operation=operation,
        mask_id=mask_id,
        size=size,
        counts=counts,
        time=NOT_YET,
        label=line.get("label"),
        prompts=prompts_from_json(line.get("prompts") or ()),
        **shared,
    )


def _hex_id(value: object, name: str) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError(f"{name} is {value!r}; it is 16 hexadecimal digits")
    return value
