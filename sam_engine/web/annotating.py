"""What people say of a dataset's masks on its pages: checked against the image, written down, told to all.

Knows nothing of HTTP. The log beside the rows is all there is: whoever opens the dataset next, in this
program or another, finds what was said.
"""

import bisect
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sam_engine.dataset.correction_log import CorrectionLog, log_files, read_file
from sam_engine.dataset.corrections import (
    Correction,
    apply_corrections,
    corrected_annotations,
    is_exhaustive,
)
from sam_engine.dataset.places import Places
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import display_path
from sam_engine.errors import InputError, StorageError
from sam_engine.storage.store import StoredObject
from sam_engine.structures import ImageRecord
from sam_engine.web.acts import Act, is_said, refuse_conflict, state_of
from sam_engine.web.queue import Queue

KEPT_ROWS = 16
"""Rows of images that stay in memory."""
CLAIMED_S = 600.0
"""For how long the queue keeps an image from others after somebody opened it."""


class Annotating:
    """Corrections of one dataset. Safe to use from several threads, and while other programs correct it."""

    def __init__(self, dataset: Dataset, places: Places) -> None:
        """Read what was said until now.

        Raises:
            InputError: The log is damaged.
            StorageError: The dataset cannot be written to, or it is not certain that what is there lasts.
        """
        self._dataset = dataset
        self._path = dataset.store.describe()
        self._places = places
        self._lock = threading.RLock()
        self._said: dict[int, list[Correction]] = {}
        self._latest: datetime | None = None
        self._files: dict[str, StoredObject] = {}
        self._counts: dict[str, int] = {}
        self._logs: dict[str, CorrectionLog] = {}
        self._rows: OrderedDict[int, ImageRecord] = OrderedDict()
        self._claims: dict[int, tuple[str, float]] = {}
        self._queue = Queue(dataset, places)
        self._is_unsettled = True  # a killed program may have left lines that a page takes for said
        self._settle()
        self._catch_up()

    # ---- what is there ----

    def corrections(self) -> dict[int, list[Correction]]:
        """Return all that was said until now, by image id."""
        with self._lock:
            self._catch_up()
            return {image_id: list(lines) for image_id, lines in self._said.items()}

    def about(self) -> dict[str, Any]:
        """Return how far the work is, and which labels are in use."""
        said = self.corrections()
        labels = {line.label for lines in said.values() for line in lines if line.label is not None}
        return {
            "num_images": len(self._queue),
            "num_corrected": len(said),
            "num_exhaustive": sum(map(is_exhaustive, said.values())),
            "labels": sorted(labels),
        }

    def image(self, image_id: int, by: str) -> dict[str, Any]:
        """Return an image with its masks as people left them.

        Args:
            image_id: Of the image.
            by: Who opens it; the queue gives it to nobody else for a while.

        Raises:
            InputError: There is no such image, or it was not annotated.
        """
        with self._lock:
            self._catch_up()
            record, said = self._row(image_id), self._said.get(image_id, [])
            self._claims[image_id] = (by, time.monotonic())
            left = apply_corrections(record, said)
            drawn = corrected_annotations(record, said)
        masks = [
            {
                "id": mask.mask_id,
                "segmentation": {"size": list(mask.size), "counts": mask.counts},
                "bbox": list(annotation.bbox),
                "area": annotation.area,
                "predicted_iou": annotation.predicted_iou,
                "stability_score": annotation.stability_score,
                "point_coords": [list(point) for point in annotation.point_coords],
                "label": mask.label,
                "accepted": mask.accepted,
            }
            for mask, annotation in zip(left, drawn, strict=True)
        ]
        return {
            "image_id": image_id,
            "file_name": display_path(record.path),
            "width": record.width,
            "height": record.height,
            "masks": masks,
        } | state_of(said, by)

    def next(self, by: str, *, order: str, seed: int = 0, after: int | None = None) -> dict[str, Any]:
        """Return the next image of the queue that is not exhaustive and that nobody else has open.

        Args:
            by: Who asks.
            order: One of `web.queue.ORDERS`.
            seed: Of the order "random".
            after: The image that is open now; None for the first.
        """
        with self._lock:
            self._catch_up()
            done = {image_id for image_id, lines in self._said.items() if is_exhaustive(lines)}
            now = time.monotonic()
            taken = {i for i, (who, at) in self._claims.items() if who != by and now - at < CLAIMED_S}
            return self._queue.next(order, seed=seed, after=after, done=done, taken=taken)

    # ---- what is said ----

    def say(self, act: Act) -> dict[str, Any]:
        """Write an act down; when this returns it lasts. An act that is there already is not written again.

        Raises:
            ConflictError: Others changed what it is about since the page saw it.
            InputError: It does not fit the image.
            StorageError: It could not be written, or it is not certain that it lasts: say it again.
        """
        with self._lock:
            self._settle()
            self._catch_up()
            image_id = act.lines[0].image_id
            record, said = self._row(image_id), self._said.get(image_id, [])
            if not is_said(act, said):
                refuse_conflict(act, said)
                log = self._logs.setdefault(act.by, CorrectionLog(self._path, act.by))
                lines = [replace(line, time=log.now(self._latest)) for line in act.lines]
                apply_corrections(record, [*said, *lines])
                self._write(log, lines)
            return state_of(self._said.get(image_id, []), act.by)

    def _write(self, log: CorrectionLog, lines: Sequence[Correction]) -> None:
        """Write lines and take them for said. The caller holds the lock.

        Where that fails they may be there all the same. The file is then left as it is, for its lines are
        taken for said when it is next read.
        """
        try:
            log.write(lines)
        except StorageError:
            del self._logs[log.by]
            self._is_unsettled = True
            raise
        assert log.name is not None
        self._counts[log.name] = self._counts.get(log.name, 0) + len(lines)
        self._take(lines)

    def _settle(self) -> None:
        """Make lasting what is visible, if that is not certain. The caller holds the lock."""
        if self._is_unsettled:
            self._dataset.store.settle()
            self._is_unsettled = False

    def _row(self, image_id: int) -> ImageRecord:
        """Return an image's row. The caller holds the lock."""
        if image_id not in self._rows:
            record = self._places.find(image_id)
            if record is None or record.status.is_failure:
                state = "is not in the dataset" if record is None else f"was not annotated ({record.status})"
                raise InputError(f"image {image_id} {state}")
            self._rows[image_id] = record
            while len(self._rows) > KEPT_ROWS:
                self._rows.popitem(last=False)
        self._rows.move_to_end(image_id)
        return self._rows[image_id]

    def _catch_up(self) -> None:
        """Read what other programs wrote since; files of the log only grow. The caller holds the lock."""
        own = {log.name for log in self._logs.values()}
        for file in log_files(self._path):
            if file.name not in own and self._files.get(file.name) != file:
                lines = read_file(self._path, file.name)
                self._take(lines[self._counts.get(file.name, 0) :])
                self._files[file.name], self._counts[file.name] = file, len(lines)

    def _take(self, lines: Sequence[Correction]) -> None:
        """Add lines to what was said, each in the order of times."""
        for line in lines:
            bisect.insort(self._said.setdefault(line.image_id, []), line, key=lambda said: said.time)
            self._latest = max(line.time, self._latest or line.time)
