"""Which masks and which images stay: predicates on what rows say. Pure functions of one row."""

import fnmatch
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sam_engine.dataset.schema import display_path
from sam_engine.errors import ConfigError
from sam_engine.structures import Annotation, ImageRecord, ImageStatus


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a filter keeps; a rule that is None keeps all. Both ends of a range belong to it."""

    min_area: int | None = None
    """Pixels of a mask."""
    max_area: int | None = None
    min_share: float | None = None
    """Of a mask's area in its image, in [0, 1]."""
    max_share: float | None = None
    min_predicted_iou: float | None = None
    max_predicted_iou: float | None = None
    min_stability_score: float | None = None
    max_stability_score: float | None = None
    labels: Sequence[str] | None = None
    """Of masks, exactly; masks without a label match none."""
    statuses: Sequence[str] | None = None
    """Of images, with the masks that are left by the rules above."""
    names: Sequence[str] | None = None
    """Patterns (``*``, ``?``, ``[ab]``) of ``file_name``: one must match; ``*`` matches ``/`` too."""
    min_masks: int | None = None
    """Masks of an image that are left by the rules above."""
    max_masks: int | None = None

    def __post_init__(self) -> None:
        """Check that something can match.

        Raises:
            ConfigError: A range is empty, or there is no such status.
        """
        for field in fields(self):
            name = field.name.removeprefix("min_")
            low, high = getattr(self, f"min_{name}", None), getattr(self, f"max_{name}", None)
            if low is not None and high is not None and low > high:
                raise ConfigError(f"min_{name} is {low} and max_{name} {high}: nothing is between them")
        for status in self.statuses or ():
            if status not in list(ImageStatus):
                raise ConfigError(
                    f"there is no status {status!r}; choose from {', '.join(sorted(ImageStatus))}"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the rules that are set."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {key: value for key, value in document.items() if value is not None}

    def keep_masks(self, record: ImageRecord) -> ImageRecord:
        """Return a row with the masks that stay; one that loses all of them is `ImageStatus.OK_EMPTY`."""
        kept = tuple(mask for mask in record.annotations if self.keeps_mask(mask))
        return record if len(kept) == len(record.annotations) else with_masks(record, kept)

    def keeps_image(self, record: ImageRecord) -> bool:
        """Return whether an image stays, of which these masks are left."""
        name = display_path(record.path)
        return (
            (self.statuses is None or record.status in self.statuses)
            and (self.names is None or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names))
            and _within(len(record.annotations), self.min_masks, self.max_masks)
        )

    def keeps_mask(self, mask: Annotation) -> bool:
        """Return whether a mask stays."""
        height, width = mask.size
        return (
            _within(mask.area, self.min_area, self.max_area)
            and _within(mask.area / max(1, height * width), self.min_share, self.max_share)
            and _within(mask.predicted_iou, self.min_predicted_iou, self.max_predicted_iou)
            and _within(mask.stability_score, self.min_stability_score, self.max_stability_score)
            and (self.labels is None or mask.label in self.labels)
        )


KEEP_ALL = Rules()


def with_masks(record: ImageRecord, masks: Sequence[Annotation]) -> ImageRecord:
    """Return a row with these masks, and the status that goes with them."""
    status = record.status
    if not status.is_failure:
        status = ImageStatus.OK if masks else ImageStatus.OK_EMPTY
    return replace(record, annotations=tuple(masks), status=status)


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)
