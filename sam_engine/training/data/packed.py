"""A packed file, read: what a bare machine trains from. `packing` writes it."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_engine.errors import ConfigError, InputError
from sam_engine.ops.rle import decode_runs
from sam_engine.training.data.mixture import Mixture


def read_made_of(path: str | Path) -> dict[str, Any] | None:
    """Return what a packed file says that it was made of; None if an earlier version packed it.

    Raises:
        InputError: The file is no packed dataset.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found: dict[str, Any] | None = (
                json.loads(str(file["made_of"])) if "made_of" in file.files else None
            )
            return found
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a packed dataset ({error}); pack the sources again") from error


class PackedDataset:
    """Images and masks of a packed file, in memory as JPEG bytes and runs.

    Raises:
        InputError: The file is missing or no packed dataset.
        ConfigError: There is not one weight for each source in it.
    """

    def __init__(self, path: str | Path, weights: Sequence[float] = ()) -> None:
        self._given = path, weights
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
            raise InputError(f"{path}: not a packed dataset ({error}); pack the sources again") from error
        if weights and len(weights) != len(self.sources):
            raise ConfigError(
                f"data.weights must be {len(self.sources)}, one for each source in {path} "
                f"({', '.join(self.sources)}), got {list(weights)!r}"
            )
        self._members = [np.flatnonzero(self.source_of == i) for i in range(len(self.sources))]
        self._mixture = Mixture([len(members) for members in self._members], weights)

    def __reduce__(self) -> tuple[type["PackedDataset"], tuple[str | Path, Sequence[float]]]:
        """Be opened again in another process, which would else wait for others before it to be sent all."""
        return type(self), self._given

    def __len__(self) -> int:
        return len(self.image_ids)

    def draw(self, rng: np.random.Generator) -> int:
        """Return the number of the next image."""
        source, place = self._mixture.draw(rng)
        return int(self._members[source][place])

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
