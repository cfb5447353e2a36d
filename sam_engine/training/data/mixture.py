"""Drawing from several sources by weight."""

from collections.abc import Sequence

import numpy as np


class Mixture:
    """Sources of given sizes and weights; what is drawn depends on the generator alone, never on the past."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float]) -> None:
        """Remember the chances.

        Args:
            sizes: Images of each source; those without any are never drawn.
            weights: How often each is drawn from, relative to the others. Empty: by its size.
        """
        self._sizes = np.asarray(sizes, dtype=np.int64)
        chances = np.where(self._sizes > 0, np.asarray(weights, float), 0) if weights else self._sizes
        self._cumulated = np.cumsum(chances / chances.sum())

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return a source and one of its images."""
        last = int(np.flatnonzero(self._sizes)[-1])  # sums of floats may end below 1
        source = min(int(np.searchsorted(self._cumulated, rng.random(), side="right")), last)
        return source, int(rng.integers(self._sizes[source]))
