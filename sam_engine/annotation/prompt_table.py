"""Prompts that are given instead of a grid: a table with a row for each point or box. No torch.

Columns: ``file_name``, as the manifest has it, and ``x``, ``y`` for points or ``x0``, ``y0``, ``x1``, ``y1``
for boxes, in pixels of the upright image. The dataset keeps what was read, so that a run is resumed without
the file, and workers elsewhere have it.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sam_engine.dataset.manifest import Manifest
from sam_engine.errors import ConfigError, ShardError
from sam_engine.inputs.origins import csv_form
from sam_engine.storage.anywhere import exists, open_file
from sam_engine.storage.store import Store

PROMPTS = "_meta/prompts.parquet"
POINT_COLUMNS = ("x", "y")
BOX_COLUMNS = ("x0", "y0", "x1", "y1")
KINDS = "a .csv or .parquet table with columns file_name and x, y (points) or x0, y0, x1, y1 (boxes)"


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptTable:
    """The prompts of all images."""

    paths: Sequence[bytes]
    """Each once, sorted."""
    starts: NDArray[np.int64]
    """(N + 1,): where the prompts of each path begin."""
    coords: NDArray[np.float64]
    """(P, 2) points or (P, 4) boxes XYXY, path by path; of one path in the order of the table."""

    def of(self, path: bytes) -> NDArray[np.float64]:
        """Return the prompts of an image, (P, 2) or (P, 4); none if the table has none."""
        number = self._numbers.get(path)
        return (
            self.coords[:0] if number is None else self.coords[self.starts[number] : self.starts[number + 1]]
        )

    @cached_property
    def _numbers(self) -> dict[bytes, int]:
        return {path: number for number, path in enumerate(self.paths)}

    @cached_property
    def sha256(self) -> str:
        """Digest of the prompts, whatever kind of file held them."""
        digest = hashlib.sha256(f"sam-engine prompts 1\n{self.coords.shape[1]}\n".encode())
        for path, start, stop in zip(self.paths, self.starts, self.starts[1:], strict=False):
            digest.update(len(path).to_bytes(8, "little") + path)
            digest.update(self.coords[start:stop].astype("<f8").tobytes())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """Return the table as Parquet."""
        names = BOX_COLUMNS if self.coords.shape[1] == 4 else POINT_COLUMNS
        counts = np.diff(self.starts)
        paths = pa.array(list(self.paths), pa.large_binary()).take(
            pa.array(np.repeat(np.arange(len(counts)), counts))
        )
        columns = {name: self.coords[:, axis] for axis, name in enumerate(names)}
        sink = io.BytesIO()
        pq.write_table(pa.table({"path_bytes": paths, **columns}), sink, compression="zstd")
        return sink.getvalue()

    def notes(self, manifest: Manifest) -> list[str]:
        """Return what does not fit the images of a run, a line each.

        Raises:
            ConfigError: Not one name is an image of it.
        """
        images = manifest.table["path_bytes"]
        known = pc.sum(pc.is_in(images, value_set=pa.array(list(self.paths), images.type))).as_py() or 0
        if known == 0:
            raise ConfigError(
                f"amg.prompts: none of its {len(self.paths):,} names is an image of the input: the first is "
                f"{ascii(self.paths[0])[2:-1]}, the input's first is {ascii(images[0].as_py())[2:-1]}"
            )
        notes = []
        if known < len(self.paths):
            notes.append(f"{len(self.paths) - known:,} names in amg.prompts are no images of this run")
        if known < len(images):
            notes.append(f"{len(images) - known:,} images have no prompts in amg.prompts, and get no masks")
        return notes


NO_PROMPTS = PromptTable(paths=[], starts=np.zeros(1, np.int64), coords=np.zeros((0, 2)))
"""Nothing is asked of any image."""


def read_prompts(path: str) -> PromptTable:
    """Return the prompts in a file.

    Raises:
        ConfigError: It cannot be read, is no such table, or holds a prompt that is none.
    """
    try:
        if path.lower().endswith(".csv"):
            form = csv_form(path)
            with open_file(path) as file:
                table = pa.csv.read_csv(file, *form)
        elif path.lower().endswith(".parquet"):
            with open_file(path) as file:
                table = pq.read_table(file)
        else:
            raise ConfigError(f"amg.prompts is {path!r}; wanted is {KINDS}")
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"amg.prompts: {path} cannot be read: {str(error).splitlines()[0]}") from error
    names = set(table.column_names)
    kinds = [columns for columns in (POINT_COLUMNS, BOX_COLUMNS) if names >= set(columns)]
    if "file_name" not in names or len(kinds) != 1:
        raise ConfigError(
            f"amg.prompts: {path} has columns {', '.join(table.column_names)}; wanted is {KINDS}"
        )
    if len(table) == 0:
        raise ConfigError(f"amg.prompts: {path} holds no prompts")
    paths = [name.encode() if isinstance(name, str) else name for name in table["file_name"].to_pylist()]
    try:
        coords = np.stack([np.asarray(table[name].to_numpy(), np.float64) for name in kinds[0]], axis=1)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"amg.prompts: {path}: coordinates are no numbers: {error}") from error
    _refuse_bad_rows(path, paths, coords)
    return _grouped(paths, coords)


def within(prompts: NDArray[np.float64], size: tuple[int, int]) -> tuple[NDArray[np.float64], list[str]]:
    """Return the prompts that begin inside an image of (H, W), boxes cut at its edges; and what changed."""
    limits = np.array(size[::-1], np.float64)
    inside = (prompts[:, :2] < limits).all(axis=1)
    kept, notes = prompts[inside].copy(), []
    if len(kept) < len(prompts):
        notes.append(
            f"{len(prompts) - len(kept)} of {len(prompts)} prompts lie outside of the image: left out"
        )
    too_far = (kept[:, 2:] > limits[: kept.shape[1] - 2]).any(axis=1)
    if too_far.any():
        kept[:, 2:] = np.minimum(kept[:, 2:], limits)
        notes.append(f"{too_far.sum()} of {len(prompts)} boxes reach beyond the image: cut")
    return kept, notes


def kept_prompts(store: Store) -> PromptTable:
    """Return the prompts that a dataset keeps.

    Raises:
        FileNotFoundError: It keeps none.
        ShardError: They are damaged.
    """
    data = store.read(PROMPTS)
    try:
        table = pq.read_table(io.BytesIO(data))
        columns = [table[name].to_numpy() for name in table.column_names[1:]]
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"{PROMPTS} is unreadable: {str(error).splitlines()[0]}") from error
    return _grouped(table["path_bytes"].to_pylist(), np.stack(columns, axis=1))


def prompts_of_run(path: str, store: Store) -> PromptTable:
    """Return the prompts in a file; where it is gone, those that the dataset was begun with.

    Raises:
        ConfigError: As `read_prompts`.
        ShardError: What the dataset keeps is damaged.
    """
    if not exists(path) and store.has(PROMPTS):
        return kept_prompts(store)
    return read_prompts(path)


def _grouped(paths: Sequence[bytes], coords: NDArray[np.float64]) -> PromptTable:
    """Return the rows path by path."""
    unique = sorted(set(paths))
    numbers = {path: number for number, path in enumerate(unique)}
    of_row = np.array([numbers[path] for path in paths], np.int64)
    counts = np.bincount(of_row, minlength=len(unique))
    return PromptTable(
        paths=unique,
        starts=np.concatenate([[0], np.cumsum(counts)]),
        coords=coords[np.argsort(of_row, kind="stable")],
    )


def _refuse_bad_rows(path: str, paths: Sequence[bytes | None], coords: NDArray[np.float64]) -> None:
    """Raise `ConfigError` naming the first row that is no prompt."""
    is_named = np.array([isinstance(name, bytes) for name in paths], bool)
    is_finite = np.isfinite(coords).all(axis=1)
    is_inside = (coords >= 0).all(axis=1)
    is_ordered = (coords[:, 2:] >= coords[:, : coords.shape[1] - 2]).all(axis=1)
    for is_good, what in (
        (is_named, "has no file_name"),
        (is_finite, "has no number"),
        (is_inside, "lies left of or above its image"),
        (is_ordered, "has its right before its left, or its bottom before its top; boxes are x0, y0, x1, y1"),
    ):
        if not is_good.all():
            row = int(np.argmin(is_good))
            raise ConfigError(f"amg.prompts: {path}: row {row + 1} {what}: {coords[row].tolist()}")
