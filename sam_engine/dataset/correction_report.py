"""What people did to a dataset, and how long it took them: figures of the log of corrections."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sam_engine.dataset.corrections import Correction, Operation, in_force

UNKNOWN = "unknown"
"""Stage of lines that do not say one."""


@dataclass(kw_only=True)
class Work:
    """What one person did in one stage."""

    by: str
    stage: str
    images: set[int] = field(default_factory=set)
    exhaustive: set[int] = field(default_factory=set)
    drawn: int = 0
    """Masks that were added and are still there by their word."""
    replaced: int = 0
    accepted: int = 0
    """Masks that were accepted one by one."""
    deleted: int = 0
    prompts: int = 0
    """Also of acts that were undone: they took time."""
    undone: int = 0
    """Acts."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return counts, and speeds where the time is known."""
        masks = self.drawn + self.replaced + self.accepted
        document = asdict(self) | {"images": len(self.images), "exhaustive": len(self.exhaustive)}
        return document | {
            "seconds": round(self.seconds, 1),
            "masks_per_hour": round(3600 * masks / self.seconds, 1) if self.seconds else None,
            "seconds_per_mask": round(self.seconds / masks, 2) if self.seconds and masks else None,
            "prompts_per_mask": round(self.prompts / masks, 2) if masks else None,
        }


def work_report(corrections: Mapping[int, Sequence[Correction]]) -> list[dict[str, Any]]:
    """Return a row for each person and stage, sorted: images, masks, prompts, seconds, masks an hour.

    A mask that was touched several times counts once, by the last word and for who had it.
    """
    work: dict[tuple[str, str], Work] = {}

    def of(line: Correction) -> Work:
        key = (line.by, line.stage.value if line.stage else UNKNOWN)
        return work.setdefault(key, Work(by=key[0], stage=key[1]))

    for image_id, lines in corrections.items():
        last: dict[Any, list[Correction]] = defaultdict(list)
        for line in lines:
            done = of(line)
            done.images.add(image_id)
            done.seconds += line.time_s or 0.0
            done.prompts += len(line.prompts)
            done.undone += line.operation is Operation.UNDO
            done.undone -= line.operation is Operation.REDO
        for line in in_force(lines):
            if line.mask_id is None:
                of(line).exhaustive.add(image_id)
            elif line.operation is not Operation.LABEL:
                last[line.mask_id].append(line)
        for said in last.values():
            _count(of(said[-1]), said)
    return [work[key].to_json() for key in sorted(work)]


def _count(done: Work, said: Sequence[Correction]) -> None:
    """Count a mask for who had the last word on it."""
    was_added = said[0].operation is Operation.ADD
    if said[-1].operation is Operation.DELETE:
        done.deleted += not was_added
    elif was_added:
        done.drawn += 1
    elif any(line.operation is Operation.REPLACE for line in said):
        done.replaced += 1
    else:
        done.accepted += 1
