"""Which of several training processes this one is, and the one thing they agree on beside gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """A process among those of torch's default process group; alone, there is no group."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` over all processes, the same in each."""
        if self.size == 1:
            return values
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total / self.size
