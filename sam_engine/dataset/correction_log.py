"""The log of corrections: files of JSON lines beside the rows, each with one writer, only ever added to.

A store has no appending. A writer gives its file anew with every act, its old lines first, and begins another
file when one has grown: an act is there whole or not at all, and an object store can hold the log as well.
"""

import json
import logging
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sam_engine.dataset.corrections import Correction, MaskId, Operation, Prompt, PromptKind, Stage
from sam_engine.errors import InputError, RleError
from sam_engine.storage.open import open_store
from sam_engine.storage.store import StoredObject

log = logging.getLogger(__name__)

CORRECTIONS_FOLDER = "corrections"
"""In the dataset directory."""
FILE_BYTES = 65536
"""A file that has grown to this is not added to any more: every act writes its file anew."""
VERSIONS = (1, 2)
"""Of lines. Those that say nothing but what version 1 knows are written as such."""
_TICK = timedelta(microseconds=1)


class CorrectionLog:
    """Files of the log with one writer. What a call says is on the disk, whole, when the call returns."""

    def __init__(self, dataset: str | Path, by: str, *, after: datetime | None = None) -> None:
        """Begin; nothing is written before the first correction.

        Args:
            dataset: The dataset directory.
            by: Who corrects; the name of each line.
            after: No line is given a time before this: that of the last line that the writer knows of.
        """
        self.by = by
        self._store = open_store(dataset)
        self._latest = after or datetime.min.replace(tzinfo=UTC)
        self._name: str | None = None
        self._data = b""

    @property
    def name(self) -> str | None:
        """Name of the file that was written to last; None before the first correction."""
        return self._name

    def now(self, known: datetime | None = None) -> datetime:
        """Return the time of the next line: later than all before it, however the clock is set meanwhile.

        Args:
            known: The time of a line of another writer that it must follow.
        """
        self._latest = max(datetime.now(UTC), self._latest + _TICK, (known or self._latest) + _TICK)
        return self._latest

    def write(self, lines: Sequence[Correction]) -> None:
        """Say all of these, in one step.

        Raises:
            StorageError: They are not there, or it is not certain that they last.
        """
        data = b"".join(map(to_line, lines))
        if not data:
            return
        if self._name is None or len(self._data) >= FILE_BYTES:
            self._begin_file(data)
        else:
            self._store.replace(self._name, self._data + data)
            self._data += data

    def line(
        self, operation: Operation, image_id: int, mask_id: MaskId | None = None, **said: Any
    ) -> Correction:
        """Return a line for `write`, with the writer's name and the time; ``said`` are more of its fields."""
        return Correction(
            operation=operation, image_id=image_id, mask_id=mask_id, by=self.by, time=self.now(), **said
        )

    def add(self, image_id: int, size: tuple[int, int], counts: str) -> str:
        """Say that there is another mask; return its id, for later corrections of it."""
        mask_id = new_id()
        self.write([self.line(Operation.ADD, image_id, mask_id, size=size, counts=counts)])
        return mask_id

    def delete(self, image_id: int, mask_id: MaskId) -> None:
        """Say that a mask is none."""
        self.write([self.line(Operation.DELETE, image_id, mask_id)])

    def replace(self, image_id: int, mask_id: MaskId, size: tuple[int, int], counts: str) -> None:
        """Say what a mask should have been."""
        self.write([self.line(Operation.REPLACE, image_id, mask_id, size=size, counts=counts)])

    def accept(self, image_id: int, mask_id: MaskId | None = None) -> None:
        """Say that a mask is right as it stands; without an id, that all are and none is missing."""
        self.write([self.line(Operation.ACCEPT, image_id, mask_id)])

    def _begin_file(self, data: bytes) -> None:
        """Make a file of a name that nobody else has.

        Where that fails it may be there all the same: the next call writes it anew, so that a line that is
        said again after an error is there once.
        """
        created = False
        while not created:
            self._data = b""
            self._name = (
                f"{CORRECTIONS_FOLDER}/{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}.jsonl"
            )
            created = self._store.put_exclusive(self._name, data)
        self._data = data


def new_id() -> str:
    """Return the id of an added mask, or of an act."""
    return secrets.token_hex(8)


def log_files(dataset: str | Path) -> list[StoredObject]:
    """Return the log's files in a dataset's store, sorted by name."""
    found = open_store(dataset).scan(f"{CORRECTIONS_FOLDER}/")
    return [each for each in found if each.name.endswith(".jsonl") and each.name.count("/") == 1]


def read_file(dataset: str | Path, name: str) -> list[Correction]:
    """Return the lines of one file.

    A last line that has no end was being written when its writer died, as it was by versions that appended:
    it is left out, and the log says so.

    Raises:
        InputError: Any other line is malformed, or its run lengths do not fit its size.
    """
    store = open_store(dataset)
    *lines, rest = store.read(name).split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(from_line(line))
        except (ValueError, KeyError, TypeError, AttributeError, RleError) as error:
            place = f"{store.describe()}/{name}, line {number}"
            raise InputError(f"{place}: no correction ({error})") from error
    if rest:
        log.warning("%s/%s: the last line was not finished and is left out", store.describe(), name)
    return found


def by_image(lines: Iterable[Correction]) -> dict[int, list[Correction]]:
    """Return lines by image id, in the order of their times; those of the same time stay as they are."""
    images: dict[int, list[Correction]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: line.time):
        images[line.image_id].append(line)
    return dict(images)


def read_corrections(dataset: str | Path) -> dict[int, list[Correction]]:
    """Return all corrections of a dataset by image id, in the order of their times.

    Lines of the same time are in the order of their files' names, and of one file in their order.

    Raises:
        InputError: As `read_file`.
    """
    return by_image(line for file in log_files(dataset) for line in read_file(dataset, file.name))


def latest_time(corrections: Mapping[int, Sequence[Correction]]) -> datetime | None:
    """Return the time of the last line; None if there is none."""
    return max((line.time for lines in corrections.values() for line in lines), default=None)


def to_line(correction: Correction) -> bytes:
    """Return a correction as a line of the log, with its end."""
    document: dict[str, Any] = {
        "version": 1,
        "time": correction.time.astimezone(UTC).isoformat(timespec="microseconds"),
        "by": correction.by,
        "operation": correction.operation.value,
        "image_id": correction.image_id,
        "mask_id": correction.mask_id,
    }
    if correction.size is not None:
        document["segmentation"] = {"size": list(correction.size), "counts": correction.counts}
    later = dict(_later_values(correction))
    if later or correction.operation is Operation.LABEL:
        document |= {"version": 2, **later}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _later_values(correction: Correction) -> Iterator[tuple[str, Any]]:
    """Yield what version 1 does not know, as far as it is said."""
    for name in ("act", "kind", "label", "stage", "time_s"):
        value = getattr(correction, name)
        if value is not None:
            yield name, value
    if correction.prompts:
        yield (
            "prompts",
            [
                {"kind": prompt.kind.value, "coords": list(prompt.coords), "foreground": prompt.foreground}
                for prompt in correction.prompts
            ],
        )


def from_line(line: bytes) -> Correction:
    """Return what a line says.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, RleError: It is malformed.
    """
    document = json.loads(line)
    if document["version"] not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise ValueError(f"version is {document['version']!r}; {known} are read here")
    image_id, mask_id = document["image_id"], document["mask_id"]
    if not isinstance(image_id, int) or not isinstance(mask_id, int | str | None):
        raise TypeError(f"image_id is {image_id!r} and mask_id {mask_id!r}")
    segmentation = document.get("segmentation")
    size = None
    if segmentation is not None:
        height, width = segmentation["size"]
        size = (height, width)
    stage, time_s = document.get("stage"), document.get("time_s")
    return Correction(
        operation=Operation(document["operation"]),
        image_id=image_id,
        mask_id=mask_id,
        size=size,
        counts=None if segmentation is None else segmentation["counts"],
        by=document["by"],
        time=datetime.fromisoformat(document["time"]),
        act=document.get("act"),
        kind=document.get("kind"),
        label=document.get("label"),
        stage=None if stage is None else Stage(stage),
        time_s=None if time_s is None else float(time_s),
        prompts=prompts_from_json(document.get("prompts", ())),
    )


def prompts_from_json(documents: Iterable[Mapping[str, Any]]) -> tuple[Prompt, ...]:
    """Return the prompts of a line; raises as `from_line`."""
    return tuple(
        Prompt(
            kind=PromptKind(prompt["kind"]),
            coords=tuple(map(float, prompt["coords"])),
            foreground=bool(prompt["foreground"]),
        )
        for prompt in documents
    )
