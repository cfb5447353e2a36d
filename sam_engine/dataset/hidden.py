"""What pictures of a dataset must not show, kept with it: whoever shows its images later hides the same."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import ShardError
from sam_engine.storage.store import Store

HIDDEN = "_meta/privacy.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Hidden:
    """Faces, boxes, or both."""

    faces: bool
    """Whatever a detector finds."""
    boxes: Mapping[bytes, NDArray[np.float64]]
    """(N, 4) as XYWH in pixels of the upright image, by its path."""

    def to_json(self) -> bytes:
        """Return the file. A name that is not UTF-8 has surrogates in it, as Python's file names have."""
        boxes = {
            path.decode("utf-8", "surrogateescape"): rows.tolist()
            for path, rows in sorted(self.boxes.items())
        }
        return json.dumps({"faces": self.faces, "boxes": boxes}).encode() + b"\n"

    @property
    def sha256(self) -> str:
        """Digest of it all."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Return what `to_json` wrote.

        Raises:
            ShardError: The file is damaged.
        """
        try:
            document = json.loads(data)
            boxes = {
                path.encode("utf-8", "surrogateescape"): np.array(rows, np.float64).reshape(-1, 4)
                for path, rows in document["boxes"].items()
            }
            return cls(faces=bool(document["faces"]), boxes=boxes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ShardError(f"{HIDDEN} is damaged, and says what must not be seen: {error}") from error


def hidden_in(store: Store) -> Hidden | None:
    """Return what a dataset keeps; None where nothing is hidden.

    Raises:
        ShardError: It is damaged: then nobody knows what must not be seen.
    """
    return Hidden.from_json(store.read(HIDDEN)) if store.has(HIDDEN) else None


def keep_hidden(store: Store, hidden: Hidden) -> None:
    """Write what is hidden from now on, if that is not what is there."""
    data = hidden.to_json()
    if not store.has(HIDDEN) or store.read(HIDDEN) != data:
        store.replace(HIDDEN, data)


def hidden_in_all(parts: Iterable[tuple[bytes, Hidden | None]]) -> Hidden | None:
    """Return what is hidden in datasets put together: what is in any; None if nothing is.

    Args:
        parts: What stands before the paths of a dataset in the whole, and what it keeps.
    """
    kept = [(folder, hidden) for folder, hidden in parts if hidden is not None]
    if not kept:
        return None
    boxes: dict[bytes, NDArray[np.float64]] = {}
    for folder, hidden in kept:
        for path, rows in hidden.boxes.items():
            boxes[folder + path] = np.concatenate([boxes.get(folder + path, rows[:0]), rows])
    return Hidden(faces=any(hidden.faces for _, hidden in kept), boxes=boxes)
