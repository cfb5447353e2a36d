"""Low-resolution logits of masks that wait for NMS: all that drawing them needs, in a fraction of the memory.

Where the logits round a pixel agree on which side of the threshold they lie, only the side matters: one bit
instead of 32. Drawn, a packed mask is the same to the last pixel (`ops.low_res.masks_to_runs`).

Legend: (h, w) low-resolution logits, K of them kept as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.amg.bilinear import Floats
from sam_engine.amg.pixel_loops import largest_of, logits_that_matter


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedLogits:
    """One mask; `unpack_logits` undoes it."""

    shape: tuple[int, int]
    """(h, w)."""
    visible: tuple[int, int]
    """Rows and columns at the top left that pixels depend on; only of these is there more."""
    above: NDArray[np.uint8]
    """Bits: which logits lie above the threshold."""
    kept: NDArray[np.uint8]
    """Bits: which logits are kept as they are."""
    values: Floats
    """(K,) these, in reading order."""
    largest: np.float32
    """Largest magnitude of all logits, which stands for the others."""

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take."""
        return self.above.nbytes + self.kept.nbytes + self.values.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class KeptLogits:
    """Low-resolution logits of N masks that may be drawn later. Index it with an int64 or boolean tensor."""

    rows: Sequence[PackedLogits | Tensor]
    """Each packed, or (h, w) where masks are drawn in a way that needs all logits."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> "KeptLogits":
        if index.dtype == torch.bool:
            index = index.nonzero()[:, 0]
        return KeptLogits([self.rows[row] for row in index.tolist()])

    def stack(self, start: int, stop: int) -> Tensor:
        """Return (n, h, w) logits that draw the same masks as those of the rows did."""
        rows = [
            torch.from_numpy(unpack_logits(row)) if isinstance(row, PackedLogits) else row
            for row in self.rows[start:stop]
        ]
        return torch.stack(rows)


def pack_logits(
    logits: Floats, visible: tuple[int, int], threshold: float, margin: np.float32
) -> PackedLogits:
    """Pack (h, w) logits for drawing at one threshold.

    Args:
        logits: Of one mask.
        visible: Rows and columns at the top left that pixels of the image depend on.
        threshold: Logits above this are foreground.
        margin: How far from the threshold a logit must be for its side to be certain.
    """
    shape = logits.shape[0], logits.shape[1]
    logits, cut = np.ascontiguousarray(logits[: visible[0], : visible[1]]), np.float32(threshold)
    kept = logits_that_matter(logits, cut, margin)
    return PackedLogits(
        shape=shape,
        visible=(logits.shape[0], logits.shape[1]),
        above=np.packbits(logits > cut),
        kept=np.packbits(kept),
        values=logits[kept],
        largest=largest_of(logits),
    )


def unpack_logits(packed: PackedLogits) -> Floats:
    """Return (h, w) logits that draw the same mask as those that were packed."""
    height, width = packed.visible
    above = np.unpackbits(packed.above, count=height * width).view(np.bool_)
    visible = np.where(above, packed.largest, -packed.largest)
    visible[np.unpackbits(packed.kept, count=height * width).view(np.bool_)] = packed.values
    logits = np.zeros(packed.shape, dtype=np.float32)
    logits[:height, :width] = visible.reshape(packed.visible)
    return logits
