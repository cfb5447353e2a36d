"""Boxes that a table names: a row for each, in pixels of the upright image. No torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sam_engine.errors import ConfigError
from sam_engine.inputs.origins import read_csv
from sam_engine.storage.anywhere import open_file

NAME = "file_name"
NUMBERS = ("x", "y", "width", "height")
KINDS = f"a .csv or .parquet table with columns {NAME}, {', '.join(NUMBERS)} (pixels of the upright image)"


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxTable:
    """The boxes of all images."""

    path: str
    """Of the file, for messages."""
    boxes: Mapping[bytes, NDArray[np.float64]]
    """(N, 4) as XYWH, by the path of the image, in the order of the table."""

    def of(self, path: bytes, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return the boxes of an image of (H, W), (N, 4) as XYWH; none if the table has none.

        Raises:
            ConfigError: A box lies outside of the image: what it was meant to cover would stay.
        """
        boxes = self.boxes.get(path)
        if boxes is None:
            return np.zeros((0, 4))
        x, y, width, height = boxes.T
        is_outside = (x >= size[1]) | (y >= size[0]) | (x + width <= 0) | (y + height <= 0)
        if is_outside.any():
            box = boxes[int(np.argmax(is_outside))].tolist()
            raise ConfigError(
                f"boxes: {self.path}: {ascii(path)[2:-1]} is {size[1]} x {size[0]} pixels upright, and "
                f"the box {dict(zip(NUMBERS, box, strict=True))} lies outside of it"
            )
        return boxes

    def notes(self, paths: Sequence[bytes]) -> list[str]:
        """Return what does not fit the images of a dataset, a line each.

        Raises:
            ConfigError: Not one name is an image of it.
        """
        known = set(paths)
        unknown = [path for path in self.boxes if path not in known]
        if len(unknown) == len(self.boxes):
            raise ConfigError(
                f"boxes: {self.path}: none of its {len(unknown):,} names is an image of the dataset: the "
                f"first is {ascii(unknown[0])[2:-1]}, "
                f"the dataset's first is {ascii(min(known, default=b''))[2:-1]}"
            )
        if not unknown:
            return []
        return [f"{len(unknown):,} names in boxes are no images here, the first {ascii(unknown[0])[2:-1]}"]


def read_boxes(path: str) -> BoxTable:
    """Return the boxes in a file.

    Raises:
        ConfigError: It cannot be read, is no such table, or holds a box that is none.
    """
    try:
        if path.lower().endswith(".csv"):
            table = read_csv(path)
        elif path.lower().endswith(".parquet"):
            with open_file(path) as file:
                table = pq.read_table(file)
        else:
            raise ConfigError(f"boxes is {path!r}; wanted is {KINDS}")
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"boxes: {path} cannot be read: {str(error).splitlines()[0]}") from error
    if any(table.column_names.count(name) != 1 for name in (NAME, *NUMBERS)):
        raise ConfigError(f"boxes: {path} has columns {', '.join(table.column_names)}; wanted is {KINDS}")
    if len(table) == 0:
        raise ConfigError(f"boxes: {path} holds no boxes")
    boxes: dict[bytes, list[list[float]]] = {}
    columns = [table[name].to_pylist() for name in (NAME, *NUMBERS)]
    for number, (name, *values) in enumerate(zip(*columns, strict=True), start=1):
        row = f"boxes: {path}: row {number}, column"
        if not isinstance(name, str | bytes) or not name:
            raise ConfigError(f"{row} {NAME}: {name!r} names no image")
        box = [_number(value, f"{row} {column}") for column, value in zip(NUMBERS, values, strict=True)]
        for column, value in zip(NUMBERS[2:], box[2:], strict=True):
            if value <= 0:
                raise ConfigError(f"{row} {column}: {value:g} is no size; wanted is a number above 0")
        boxes.setdefault(name.encode() if isinstance(name, str) else name, []).append(box)
    return BoxTable(path=path, boxes={name: np.array(rows, np.float64) for name, rows in boxes.items()})


def _number(value: Any, where: str) -> float:
    """Return a cell as a number; `ConfigError`, naming it, where it is none."""
    try:
        number = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{where}: {value!r} is no number")
    return number
