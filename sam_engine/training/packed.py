"""A packed file, read: what a bare machine trains from. `packing` writes it."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_engine.errors import InputError
from sam_engine.ops.rle import decode_runs
from sam_engine.training.config import DataConfig


class PackedDataset:
    """Images and masks of a packed file, in memory as JPEG bytes and runs.

    Raises:
        InputError: The file is missing or no packed dataset.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            self._jpeg = columns["jpeg"].tobytes()
            self._jpeg_offset = columns["jpeg_offset"]
            self._runs = columns["runs"]
            self._run_offset = columns["run_offset"]
            self._sizes = np.stack([columns["height"], columns["width"]], axis=1)
            self._first_mask = np.concatenate([[0], np.cumsum(columns["num_masks"])])
            self.image_ids = columns["image_id"]
            self.source_of = columns["source"]
            self.sources = [str(name) for name in columns["sources"]]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: not a packed dataset ({error}); pack the tars again") from error

    def __len__(self) -> int:
        return len(self.image_ids)

    def image(self, index: int) -> Image.Image:
        """Return an image, RGB."""
        start, stop = self._jpeg_offset[index : index + 2]
        return Image.open(io.BytesIO(self._jpeg[start:stop])).convert("RGB")

    def num_masks(self, index: int) -> int:
        """Return how many masks an image has."""
        return int(self._first_mask[index + 1] - self._first_mask[index])

    def mask(self, index: int, number: int) -> NDArray[np.bool_]:
        """Return mask ``number`` of an image, (H, W)."""
        row = int(self._first_mask[index]) + number
        start, stop = self._run_offset[row : row + 2]
        height, width = self._sizes[index]
        return decode_runs(self._runs[start:stop].astype(np.int64), (int(height), int(width)))

    def image_probabilities(self, config: DataConfig) -> NDArray[np.float64]:
        """Return the chance of each image to be drawn, from the weights of the tars."""
        if not config.weights:
            return np.full(len(self), 1 / len(self))
        weights = np.asarray(config.weights) / np.maximum(
            1, np.bincount(self.source_of, minlength=len(config.weights))
        )
        chances = weights[self.source_of]
        return np.asarray(chances / chances.sum())
