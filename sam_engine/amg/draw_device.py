"""Run lengths of masks that are drawn on a device, without waiting and without their pixels leaving it.

Masks are upscaled in the original's two steps and thresholded; only the places where their columns change are
copied to the host. How many there are is known on the device alone, so that their list has a length fixed
beforehand; where it was too short, those masks are drawn again with one that is as long as they need.

Legend: N masks, (h, w) low-resolution logits, (H, W) pixels of the image or crop that they lie in.
"""

import logging
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sam_engine.amg.measure import LogitFrame, upscaled_chunks
from sam_engine.amg.packed_logits import KeptLogits
from sam_engine.compute.device import Download
from sam_engine.ops.masks import count_true
from sam_engine.ops.rle import Runs, changes_to_runs

log = logging.getLogger(__name__)

CHANGES_PER_COLUMN = 6
"""Places in the list for each column of a mask's box. A simple outline changes twice in each."""
SPARE_CHANGES = 64
"""Places besides, for each mask."""


class QueuedRuns:
    """Masks of one frame whose drawing is queued."""

    def __init__(
        self,
        logits: KeptLogits,
        frame: LogitFrame,
        threshold: float,
        boxes_xyxy: Tensor,
        changes_per_column: int | None = None,
    ) -> None:
        """Queue it.

        Args:
            logits: Of N masks, on the device, not packed.
            frame: Where they lie.
            threshold: Logits above this are foreground.
            boxes_xyxy: (N, 4) on the host, about where masks are, in pixels of the crop.
            changes_per_column: Instead of `CHANGES_PER_COLUMN`.
        """
        self._logits, self._frame, self._threshold = logits, frame, threshold
        width = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0] + 1).numpy()
        per_column = CHANGES_PER_COLUMN if changes_per_column is None else changes_per_column
        capacities = width * per_column + SPARE_CHANGES
        step = frame.masks_at_once
        self._chunks = [slice(start, start + step) for start in range(0, len(logits), step)]
        self._capacities = [int(capacities[chunk].sum()) for chunk in self._chunks]
        self.changes = self._draw(self._chunks, self._capacities)
        """What `runs` reads, int32: for each chunk the number of changes, and as many as fitted."""

    def runs(self, changes: Tensor, origin: tuple[int, int], size: tuple[int, int]) -> list[Runs]:
        """Return the run lengths in the image that the frame is a crop of.

        Chunks whose lists were too short are drawn again, with lists as long as they were said to need.

        Args:
            changes: ``self.changes``, on the host.
            origin: (y, x) of the crop in the image.
            size: (H, W) of the image.
        """
        height, width = self._frame.original_size
        runs: list[Runs] = []
        for chunk, found in zip(self._chunks, self._whole_lists(changes), strict=True):
            num_masks = len(range(len(self._logits))[chunk])
            columns = _by_mask(found, num_masks, width * (height + 1))
            runs.extend(changes_to_runs(mask, height, origin, size) for mask in columns)
        return runs

    def runs_at_once(self, origin: tuple[int, int], size: tuple[int, int]) -> list[Runs]:
        """Return `runs`, waiting for the device."""
        return self.runs(Download(self.changes).wait(), origin, size)

    def _draw(self, chunks: Sequence[slice], capacities: Sequence[int]) -> Tensor:
        """Queue the drawing of chunks of masks; return their lists, one after the other."""
        lists: list[Tensor] = []
        for chunk, capacity in zip(chunks, capacities, strict=True):
            logits = self._logits.stack(chunk.start, min(chunk.stop, len(self._logits)))
            drawn = upscaled_chunks(logits, self._frame)
            lists.extend(_changes(upscaled > self._threshold, capacity) for upscaled in drawn)
        return torch.cat(lists)

    def _whole_lists(self, changes: Tensor) -> list[NDArray[np.int64]]:
        """Return where the columns of each chunk change: all places."""
        counts, found = _parts(changes, self._capacities)
        short = [i for i, capacity in enumerate(self._capacities) if counts[i] > capacity]
        if short:
            needed = [counts[i] for i in short]
            room = sum(self._capacities[i] for i in short)
            log.info("%d changes of outlines do not fit %d places: drawn again", sum(needed), room)
            again = Download(self._draw([self._chunks[i] for i in short], needed)).wait()
            for i, places in zip(short, _parts(again, needed)[1], strict=True):
                found[i] = places
        return found


def _changes(masks: Tensor, capacity: int) -> Tensor:
    """Return how often columns of masks (n, H, W) change, and where: (1 + capacity,) int32.

    Places are counted through all masks and columns, each H + 1 long: a change is between two pixels, or
    between one at the end of its column and the background.
    """
    columns = F.pad(masks.transpose(1, 2), (1, 1))
    flags = columns[..., 1:] != columns[..., :-1]  # (n, W, H + 1)
    place = torch.nonzero_static(flags.flatten(), size=capacity)[:, 0]
    return torch.cat([count_true(flags).sum()[None], place]).int()


def _parts(changes: Tensor, capacities: Sequence[int]) -> tuple[list[int], list[NDArray[np.int64]]]:
    """Cut lists on the host, one after the other, into the number of changes of each and their places."""
    counts, places = [], []
    rest = changes.numpy().astype(np.int64)
    for capacity in capacities:
        counts.append(int(rest[0]))
        places.append(rest[1 : min(capacity, counts[-1]) + 1])
        rest = rest[capacity + 1 :]
    return counts, places


def _by_mask(changes: NDArray[np.int64], num_masks: int, per_mask: int) -> Sequence[NDArray[np.int64]]:
    """Cut ascending places into those of each mask, counted from its own first."""
    starts = np.arange(num_masks + 1) * per_mask
    bounds = np.searchsorted(changes, starts).tolist()
    return [changes[a:b] - starts[mask] for mask, (a, b) in enumerate(pairwise(bounds))]
