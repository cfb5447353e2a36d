"""Training images read when they are drawn: for more data than fits a packed file."""

import logging

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_engine.errors import ImageError
from sam_engine.training.config import DataConfig
from sam_engine.training.data.mixture import Mixture
from sam_engine.training.data.selection import ReducedImage, select

log = logging.getLogger(__name__)


class StreamedDataset:
    """The images of all sources, numbered through, with one in memory: the last that was asked for.

    An image that cannot be read has no masks, so that another is drawn; the log says why, once.

    Raises:
        ConfigError: As `select`.
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._selections = select(config)
        self.sources = [selection.name for selection in self._selections]
        sizes = [len(selection) for selection in self._selections]
        self._first = np.concatenate([[0], np.cumsum(sizes)])
        self._mixture = Mixture(sizes, config.weights)
        self._last: tuple[int, ReducedImage | None] | None = None
        self._unusable: set[int] = set()

    def __len__(self) -> int:
        return int(self._first[-1])

    def draw(self, rng: np.random.Generator) -> int:
        """Return the number of the next image."""
        source, place = self._mixture.draw(rng)
        return int(self._first[source]) + place

    def image(self, index: int) -> Image.Image:
        """Return an image, RGB."""
        reduced = self._read(index)
        assert reduced is not None
        return reduced.image

    def num_masks(self, index: int) -> int:
        """Return how many masks an image has; 0 if it cannot be read."""
        reduced = self._read(index)
        return 0 if reduced is None else reduced.num_masks

    def mask(self, index: int, number: int) -> NDArray[np.bool_]:
        """Return mask ``number`` of an image, (H, W)."""
        reduced = self._read(index)
        assert reduced is not None
        return reduced.mask(number)

    def _read(self, index: int) -> ReducedImage | None:
        """Return an image, or None if it cannot be read."""
        if self._last is None or self._last[0] != index:
            self._last = (index, None if index in self._unusable else self._read_anew(index))
        return self._last[1]

    def _read_anew(self, index: int) -> ReducedImage | None:
        """Read an image from its source."""
        source = int(np.searchsorted(self._first, index, side="right")) - 1
        selection = self._selections[source]
        try:
            return selection.read(index - int(self._first[source]), self._config)
        except ImageError as error:
            log.warning("%s: image left out: %s", selection.name, error)
            self._unusable.add(index)
            return None
