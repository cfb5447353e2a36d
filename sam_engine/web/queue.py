"""Which image people look at next: all annotated images in one of several orders."""

from collections.abc import Collection
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_engine.dataset.places import Places
from sam_engine.dataset.reader import Dataset, read_tables
from sam_engine.dataset.shards import shard_name
from sam_engine.structures import ImageStatus

ORDERS = ("stability", "predicted_iou", "masks", "random", "name")
"""Lowest score of a mask first; most masks first; by chance; as the dataset has them."""

_SCORES = {"stability": "stability_score", "predicted_iou": "predicted_iou"}
_MASK = "annotations.list.element."


class Queue:
    """The images of a finished dataset that were annotated. Reads scores of masks, and no run lengths."""

    def __init__(self, dataset: Dataset, places: Places) -> None:
        """Note the dataset; it is read when the first image is asked for."""
        self._dataset = dataset
        self._places = places
        self._orders: dict[tuple[str, int], NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return len(self._columns["image_id"])

    def next(
        self,
        order: str,
        *,
        seed: int = 0,
        after: int | None = None,
        done: Collection[int] = (),
        taken: Collection[int] = (),
    ) -> dict[str, Any]:
        """Return ``image_id`` of the next image, None if there is none, and ``num_left`` that are not done.

        Args:
            order: One of `ORDERS`.
            seed: Of "random".
            after: Where to go on; after the last the first follows. None: at the first.
            done: Images to pass over.
            taken: More of them, that are still to be done.
        """
        ids = self._ordered(order, seed)
        start = 0
        if after is not None:
            place = np.flatnonzero(ids == after)
            start = int(place[0]) + 1 if len(place) else 0
        left = ids[~np.isin(ids, list(done))] if done else ids
        for image_id in np.roll(ids, -start).tolist():
            if image_id not in done and image_id not in taken and image_id != after:
                return {"image_id": image_id, "num_left": len(left)}
        return {"image_id": None, "num_left": len(left)}

    def _ordered(self, order: str, seed: int) -> NDArray[np.int64]:
        """Return all image ids in an order; among equals the first image comes first."""
        key = (order, seed if order == "random" else 0)
        if key not in self._orders:
            ids = self._columns["image_id"]
            if order == "random":
                self._orders[key] = np.random.default_rng(seed).permutation(ids)
            elif order == "name":
                self._orders[key] = ids
            else:
                values = -self._columns["masks"] if order == "masks" else self._columns[order]
                self._orders[key] = ids[np.argsort(values, kind="stable")]
        return self._orders[key]

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        """Image ids, ascending, with number of masks and lowest score of each; 2 where there is none."""
        columns = ["image_id", "status", "num_masks", *(_MASK + leaf for leaf in _SCORES.values())]
        parts: list[dict[str, NDArray[Any]]] = []
        for index in self._places.published():
            parts += map(_lowest, read_tables(self._dataset.store, shard_name(index), columns))
        names = ("image_id", "masks", *_SCORES)
        joined = {
            name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0, np.int64)
            for name in names
        }
        order = np.argsort(joined["image_id"], kind="stable")
        return {name: values[order] for name, values in joined.items()}


def _lowest(table: pa.Table) -> dict[str, NDArray[Any]]:
    """Return a row group's annotated images with the lowest scores of their masks."""
    num_masks = table["num_masks"].to_numpy().astype(np.int64)
    masks = pc.list_flatten(table["annotations"])
    image = np.repeat(np.arange(len(num_masks)), num_masks)
    found: dict[str, NDArray[Any]] = {"image_id": table["image_id"].to_numpy(), "masks": num_masks}
    for name, leaf in _SCORES.items():
        lowest = np.full(len(num_masks), 2.0)
        np.minimum.at(lowest, image, pc.struct_field(masks, [leaf]).to_numpy())
        found[name] = lowest
    failed = {status.value for status in ImageStatus if status.is_failure}
    kept = np.array([status not in failed for status in table["status"].to_pylist()], bool)
    return {name: values[kept] for name, values in found.items()}
