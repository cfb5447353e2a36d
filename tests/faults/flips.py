"""Flip one bit of a shard. Nobody may read other rows than were written without being told.

Each flip is shown to the reader (rows of all columns, and the footers' summary) and to `tools.verify`, in a
dataset that has ``_SUCCESS.json`` and in one that has not. A reader may miss a flip only if it reads the very
same rows.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam_engine.dataset.reader import Dataset, open_dataset
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX, SUCCESS
from sam_engine.dataset.verify import verify_dataset
from sam_engine.errors import SamEngineError

from .result import Order, Result
from .scene import Scene

DEFAULT_FLIPS = 10_000


def run_flips(scene: Scene, order: Order) -> Result:
    """Flip ``order.limit`` bits, drawn over all shards of an undisturbed run."""
    result = Result(campaign="flips")
    scene.clear()
    scene.run()
    dataset = open_dataset(scene.output)
    shards = [scene.output / name for name in sorted(dataset.store.list(ANNOTATIONS_PREFIX))]
    before = _read(dataset)
    count = DEFAULT_FLIPS if order.limit is None else order.limit
    for path, bit in _draw(shards, count, random.Random(order.seed)):
        whole = path.read_bytes()
        path.write_bytes(_flipped(whole, bit))
        result.injected += 1
        result.by_kind["bits flipped"] += 1
        where = f"bit {bit % 8} of byte {bit // 8} of {len(whole)} in {path.name}"
        if not _is_noticed(dataset):
            result.violations.append(f"{where}: tools.verify did not notice")
        success = (scene.output / SUCCESS).read_bytes()
        (scene.output / SUCCESS).unlink()
        if _only_unfinished(dataset):
            result.violations.append(f"{where}: tools.verify did not notice without {SUCCESS}")
        (scene.output / SUCCESS).write_bytes(success)
        try:
            after = _read(dataset)
        except SamEngineError:
            result.outcomes["refused by the reader"] += 1
        else:
            result.outcomes["read: the same rows" if after == before else "read: other rows"] += 1
            if after != before:
                result.violations.append(f"{where}: other rows were read without an error")
        path.write_bytes(whole)
    return result


def _draw(shards: Sequence[Path], count: int, dice: random.Random) -> Iterator[tuple[Path, int]]:
    """Yield different bits, over all bytes alike."""
    sizes = np.cumsum([8 * path.stat().st_size for path in shards])
    for place in dice.sample(range(int(sizes[-1])), min(count, int(sizes[-1]))):
        index = int(np.searchsorted(sizes, place, side="right"))
        yield shards[index], place - (int(sizes[index - 1]) if index else 0)


def _flipped(data: bytes, bit: int) -> bytes:
    """Return the data with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def _read(dataset: Dataset) -> Any:
    """Return all that the reader says of a dataset."""
    dataset = Dataset(dataset.store, dataset.run_info)  # it remembers footers
    return dataset.num_images, dataset.num_masks, dataset.statuses, repr(list(dataset.records()))


def _is_noticed(dataset: Dataset) -> bool:
    """Return whether verification finds anything."""
    return bool(verify_dataset(dataset).problems)


def _only_unfinished(dataset: Dataset) -> bool:
    """Return whether verification finds nothing but that there is no ``_SUCCESS.json``."""
    return all(problem.startswith(SUCCESS) for problem in verify_dataset(dataset).problems)
