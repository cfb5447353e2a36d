"""Run lengths of masks that are drawn on a device, without waiting and without their pixels leaving it.

Masks are upscaled in the original's two steps and thresholded; only the places where their columns change are
copied to the host. How many there are is known on the device alone, so that their list has a length fixed
beforehand; where it was too short, the masks are drawn again with one that is not.

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
        self._capacities: list[int] = []
        lists = []
        for start in range(0, len(logits), frame.masks_at_once):
            stop = min(start + frame.masks_at_once, len(logits))
            for upscaled in upscaled_chunks(logits.stack(start, stop), frame):
                self._capacities.append(int(capacities[start:stop].sum()))
                lists.append(_changes(upscaled > threshold, self._capacities[-1]))
        self.changes = torch.cat(lists)
        """What `runs` reads, int32: for each chunk the number of changes, and as many as fitted."""

    def runs(self, changes: Tensor, origin: tuple[int, int], size: tuple[int, int]) -> list[Runs]:
        """Return the run lengths in the image that the frame is a crop of.

        Args:
            changes: ``self.changes``, on the host.
            origin: (y, x) of the crop in the image.
            size: (H, W) of the image.
        """
        height, width = self._frame.original_size
        runs: list[Runs] = []
        lists = changes.numpy().astype(np.int64)
        for capacity in self._capacities:
            num_changes, found, lists = int(lists[0]), lists[1 : capacity + 1], lists[capacity + 1 :]
            if num_changes > capacity:
                log.info("%d changes of outlines do not fit %d places: drawn again", num_changes, capacity)
                return self._drawn_again().runs_at_once(origin, size)
            num_masks = min(self._frame.masks_at_once, len(self._logits) - len(runs))
            columns = _by_mask(found[:num_changes], num_masks, width * (height + 1))
            runs.extend(changes_to_runs(mask, height, origin, size) for mask in columns)
        return runs

    def runs_at_once(self, origin: tuple[int, int], size: tuple[int, int]) -> list[Runs]:
        """Return `runs`, waiting for the device."""
        return self.runs(Download(self.changes).wait(), origin, size)

    def _drawn_again(self) -> "QueuedRuns":
        """Queue the same masks with a list that every mask fits."""
        height, width = self._frame.original_size
        whole = torch.tensor([[0, 0, width - 1, height - 1]]).expand(len(self._logits), 4)
        return QueuedRuns(self._logits, self._frame, self._threshold, whole, changes_per_column=height + 1)


def _changes(masks: Tensor, capacity: int) -> Tensor:
    """Return how often columns of masks (n, H, W) change, and where: (1 + capacity,) int32.

    Places are counted through all masks and columns, each H + 1 long: a change is between two pixels, or
    between one at the end of its column and the background.
    """
    columns = F.pad(masks.transpose(1, 2), (1, 1))
    flags = columns[..., 1:] != columns[..., :-1]  # (n, W, H + 1)
    place = torch.nonzero_static(flags.flatten(), size=capacity)[:, 0]
    return torch.cat([flags.sum()[None], place]).int()


def _by_mask(changes: NDArray[np.int64], num_masks: int, per_mask: int) -> Sequence[NDArray[np.int64]]:
    """Cut ascending places into those of each mask, counted from its own first."""
    starts = np.arange(num_masks + 1) * per_mask
    bounds = np.searchsorted(changes, starts).tolist()
    return [changes[a:b] - starts[mask] for mask, (a, b) in enumerate(pairwise(bounds))]
