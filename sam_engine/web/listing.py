"""All images of a dataset in memory, but for their masks: what grid, search, sorting and statistics ask.

A thread reads shard after shard, also those that are published while it runs. A million images are some
100 MB: their names as Arrow text, the rest as NumPy columns. Of their masks only counts by bin are kept.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_engine.dataset.places import Places
from sam_engine.dataset.reader import Dataset, read_tables
from sam_engine.dataset.shards import shard_name
from sam_engine.dataset.statistics import MEASURE_COLUMNS, Statistics
from sam_engine.errors import SamEngineError
from sam_engine.structures import ImageStatus

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 2.0
"""Between looks for shards that were published meanwhile."""

_COLUMNS = ("image_id", "file_name", "width", "height", "status", "error", "num_masks")
_STATUSES = tuple(ImageStatus)
_STATUS_CODES: Mapping[str, int] = {status.value: code for code, status in enumerate(_STATUSES)}

ORDERS = ("image_id", "num_masks", "pixels", "mean_iou")
"""What images can be sorted by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which images, in which order."""

    text: str = ""
    """Part of the file name, in any case."""
    statuses: frozenset[str] = frozenset()
    """Values of `ImageStatus`; empty for all. ``failed`` stands for every failure."""
    min_masks: int = 0
    max_masks: int | None = None
    order: str = "image_id"
    """One of `ORDERS`."""
    descending: bool = False
    sample: int | None = None
    """Seed of a random order, in place of ``order``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Columns of the images that have been read, one row each, in order of their ids."""

    image_id: NDArray[np.int64]
    num_masks: NDArray[np.int32]
    pixels: NDArray[np.int64]
    """Width times height; 0 where unknown."""
    status: NDArray[np.int8]
    """Place in `ImageStatus`."""
    mean_iou: NDArray[np.float32]
    """Mean predicted IoU of its masks; -1 where there are none."""
    file_name: pa.ChunkedArray
    lower_name: pa.ChunkedArray

    def matching(self, query: Query) -> NDArray[np.int64]:
        """Return the row numbers that a query asks for, in its order."""
        keep = self.num_masks >= query.min_masks
        if query.max_masks is not None:
            keep &= self.num_masks <= query.max_masks
        if query.statuses:
            wanted = [
                code
                for code, status in enumerate(_STATUSES)
                if status.value in query.statuses or ("failed" in query.statuses and status.is_failure)
            ]
            keep &= np.isin(self.status, wanted)
        if query.text:
            found = pc.match_substring(self.lower_name, query.text.lower())
            keep &= found.to_numpy()
        rows = np.flatnonzero(keep)
        if query.sample is not None:
            return np.random.default_rng(query.sample).permutation(rows)
        keys = getattr(self, query.order)[rows]
        # Stable both ways: among equals the first image comes first.
        return rows[np.argsort(-keys if query.descending else keys, kind="stable")]


@dataclass(slots=True)
class _Part:
    """One shard's columns."""

    start: int
    columns: dict[str, NDArray[Any]]
    names: pa.Array
    lower_names: pa.Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the reading is."""

    num_shards: int
    """Published now."""
    num_read: int
    num_images: int
    """Of the shards that were read."""
    num_masks: int
    problems: Sequence[str] = field(default_factory=tuple)
    """Shards that cannot be read, in a line each."""


class Listing:
    """Reads a dataset in a thread of its own and answers queries about what it has read so far."""

    def __init__(self, dataset: Dataset, places: Places) -> None:
        self._dataset = dataset
        self._places = places
        self._lock = threading.Lock()
        self._parts: dict[int, _Part] = {}
        self._images: Images | None = None
        self._problems: dict[int, str] = {}
        self._num_shards = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listing", daemon=True)
        self.statistics = Statistics()

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def progress(self) -> Progress:
        """Return how far the reading is."""
        with self._lock:
            parts = list(self._parts.values())
            return Progress(
                num_shards=self._num_shards,
                num_read=len(parts),
                num_images=sum(len(part.names) for part in parts),
                num_masks=int(sum(part.columns["num_masks"].sum() for part in parts)),
                problems=tuple(self._problems.values()),
            )

    def is_whole(self) -> bool:
        """Return whether all that is published has been read."""
        with self._lock:
            return self._num_shards == len(self._parts) + len(self._problems) and self._num_shards > 0

    def images(self) -> Images:
        """Return the columns of what has been read."""
        with self._lock:
            if self._images is None:
                self._images = _joined(sorted(self._parts.values(), key=lambda part: part.start))
            return self._images

    def statuses(self) -> dict[str, int]:
        """Return how many images have each status, of those that have been read."""
        counts = np.bincount(self.images().status, minlength=len(_STATUSES))
        return {status.value: int(count) for status, count in zip(_STATUSES, counts, strict=True) if count}

    def _run(self) -> None:
        """Read what is published, then look again and again, until closed."""
        while not self._stop.is_set():
            self.look()
            self._stop.wait(LOOK_AGAIN_S)

    def look(self) -> None:
        """Read what has been published since the last look; ends early when closed."""
        try:
            published = self._places.published()
        except (SamEngineError, OSError) as error:
            log.warning("the dataset cannot be listed: %s", error)
            return
        with self._lock:
            self._num_shards = len(published)
            open_shards = [i for i in published if i not in self._parts and i not in self._problems]
        for index in open_shards:
            if self._stop.is_set():
                return
            self._read(index)

    def _read(self, index: int) -> None:
        """Read one shard's columns."""
        try:
            part, measures = self._columns_of(index)
        except (SamEngineError, OSError) as error:
            log.warning("%s", error)
            with self._lock:
                self._problems[index] = str(error)
            return
        self.statistics.add(part.columns["num_masks"], measures)
        with self._lock:
            self._parts[index] = part
            self._images = None

    def _columns_of(self, index: int) -> tuple[_Part, list[pa.Table]]:
        """Return what is kept of a shard's images, and its masks' measures by row group."""
        place = self._places.place(index)
        store, name = self._dataset.store, shard_name(index)
        tables = list(read_tables(store, name, _COLUMNS))
        measures = list(read_tables(store, name, MEASURE_COLUMNS))
        table = pa.concat_tables(tables, promote_options="none") if tables else None
        assert table is not None
        statuses = table["status"].cast(pa.string()).to_pylist()
        sides = [table[side].fill_null(0).to_numpy().astype(np.int64) for side in ("width", "height")]
        num_masks = table["num_masks"].to_numpy().astype(np.int32)
        iou = np.concatenate([_leaf(part, "predicted_iou") for part in measures])
        names = pc.cast(table["file_name"], pa.large_string()).combine_chunks()
        columns = {
            "image_id": table["image_id"].to_numpy(),
            "num_masks": num_masks,
            "pixels": sides[0] * sides[1],
            "status": np.array([_STATUS_CODES[status] for status in statuses], np.int8),
            "mean_iou": _means(iou, num_masks),
        }
        return _Part(place.start, columns, names, pc.utf8_lower(names)), measures


def _leaf(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Return one measure of all masks of a table, in order."""
    values = pc.struct_field(pc.list_flatten(table["annotations"]), [name])
    return np.asarray(values.to_numpy(), dtype=np.float64)


def _means(values: NDArray[np.float64], counts: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the mean of each image's values, -1 where it has none."""
    ends = np.cumsum(counts)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    totals = sums[ends] - sums[ends - counts]
    return np.where(counts > 0, totals / np.maximum(counts, 1), -1.0).astype(np.float32)


def _joined(parts: Sequence[_Part]) -> Images:
    """Return the columns of all parts, in their order."""

    def column(name: str, dtype: Any) -> NDArray[Any]:
        return np.concatenate([part.columns[name] for part in parts]) if parts else np.zeros(0, dtype)

    return Images(
        image_id=column("image_id", np.int64),
        num_masks=column("num_masks", np.int32),
        pixels=column("pixels", np.int64),
        status=column("status", np.int8),
        mean_iou=column("mean_iou", np.float32),
        file_name=pa.chunked_array([part.names for part in parts], pa.large_string()),
        lower_name=pa.chunked_array([part.lower_names for part in parts], pa.large_string()),
    )
