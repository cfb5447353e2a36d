"""``MaskData`` and ``batch_iterator`` of ``segment_anything.utils.amg``, which its subclasses use."""

from collections.abc import ItemsView, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor


class MaskData:
    """Masks and what is known of them, in columns of equal length: lists, arrays or tensors."""

    def __init__(self, **columns: Any) -> None:
        self._stats: dict[str, Any] = {}
        for name, column in columns.items():
            self[name] = column

    def __setitem__(self, name: str, column: Any) -> None:
        if not isinstance(column, list | np.ndarray | Tensor):
            raise TypeError(f"MaskData takes lists, arrays and tensors; {name} is a {type(column).__name__}")
        self._stats[name] = column

    def __delitem__(self, name: str) -> None:
        del self._stats[name]

    def __getitem__(self, name: str) -> Any:
        return self._stats[name]

    def items(self) -> ItemsView[str, Any]:
        """Return names and columns."""
        return self._stats.items()

    def filter(self, keep: Tensor) -> None:
        """Keep the rows that a boolean tensor marks, or those of an int64 tensor in its order."""
        for name, column in self._stats.items():
            if isinstance(column, Tensor):
                self._stats[name] = column[torch.as_tensor(keep, device=column.device)]
            elif isinstance(column, np.ndarray):
                self._stats[name] = column[keep.detach().cpu().numpy()]
            else:
                rows = keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep
                self._stats[name] = [column[row] for row in rows.tolist()]

    def cat(self, new_stats: "MaskData") -> None:
        """Append the rows of another; its columns are taken over where there are none of that name."""
        for name, column in new_stats.items():
            mine = self._stats.get(name)
            if mine is None:
                self._stats[name] = deepcopy(column)
            elif isinstance(column, Tensor):
                self._stats[name] = torch.cat([mine, column])
            elif isinstance(column, np.ndarray):
                self._stats[name] = np.concatenate([mine, column])
            else:
                self._stats[name] = mine + deepcopy(column)

    def to_numpy(self) -> None:
        """Replace tensors by arrays on the host."""
        for name, column in self._stats.items():
            if isinstance(column, Tensor):
                self._stats[name] = column.detach().cpu().numpy()


def batch_iterator(batch_size: int, *args: Any) -> Iterator[list[Any]]:
    """Yield ``batch_size`` items of each argument at a time; the last may be fewer.

    Raises:
        ValueError: There are no arguments, or they are not of one length.
    """
    if not args or any(len(arg) != len(args[0]) for arg in args):
        raise ValueError(f"wanted are arguments of one length; got lengths {[len(arg) for arg in args]}")
    for start in range(0, len(args[0]), batch_size):
        yield [arg[start : start + batch_size] for arg in args]
