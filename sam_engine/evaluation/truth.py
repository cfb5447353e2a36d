"""Ground truth, image by image, whatever it is written in. No torch.

It is read as training reads its sources. Images without a mask that covers a pixel are passed over, because
there is nothing to score on them; so are COCO's crowds.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import ConfigError, ImageError, InputError
from sam_engine.formats.open import open_source
from sam_engine.formats.source import AnnotatedImage, Source
from sam_engine.ops.rle import Runs, area_of, decode_runs, runs_to_counts


@dataclass(frozen=True, kw_only=True, eq=False)
class TruthImage:
    """One image and its N annotated masks, none of them empty."""

    image_id: int
    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    runs: tuple[Runs, ...]
    """Run lengths of each mask, see `sam_engine.ops.rle`."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def areas(self) -> NDArray[np.float64]:
        """(N,) in pixels of the masks; what decides between small, medium and large."""
        return np.array([area_of(runs) for runs in self.runs], np.float64)

    @property
    def masks(self) -> list[NDArray[np.bool_]]:
        """(H, W) each."""
        return [decode_runs(runs, self.size) for runs in self.runs]

    @property
    def rles(self) -> list[dict[str, Any]]:
        """Each mask as pycocotools takes it."""
        return [{"size": list(self.size), "counts": runs_to_counts(runs).encode()} for runs in self.runs]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """One set of ground truth."""

    source: Source
    indices: Sequence[int]
    """Which images of the source are scored."""

    @property
    def name(self) -> str:
        """Short, for tables and file names."""
        return self.source.name

    def __len__(self) -> int:
        """Return how many images are listed; those without masks are among them."""
        return len(self.indices)

    @property
    def image_ids(self) -> list[int]:
        """Of the images that are listed, read from no pixels."""
        return [self.source.image_id(index) for index in self.indices]

    def first(self, limit: int | None = None) -> Iterator[TruthImage]:
        """Yield the first ``limit`` images that have masks; all if None.

        Raises:
            InputError: An image or its annotations cannot be read: what is left out would change the scores.
        """
        return islice(self._images(), limit)

    def _images(self) -> Iterator[TruthImage]:
        """Yield every image that has masks."""
        for index in self.indices:
            try:
                image = self.source.read(index)
            except ImageError as error:
                raise InputError(f"{self.name}: image {self.source.image_id(index)}: {error}") from error
            if found := _with_masks(image):
                yield found


def of_ids(truths: Sequence[Truth], ids: Collection[int]) -> list[Truth]:
    """Return of each truth the images with one of these ids; all if there are no ids.

    Raises:
        ConfigError: No truth has an image of an id.
    """
    if not ids:
        return list(truths)
    wanted = frozenset(ids)
    missing = wanted.difference(*(truth.image_ids for truth in truths))
    if missing:
        raise ConfigError(f"ids: no truth has an image {', '.join(map(str, sorted(missing)))}")
    return [
        replace(truth, indices=[i for i in truth.indices if truth.source.image_id(i) in wanted])
        for truth in truths
    ]


def open_truth(path: str | Path, images: str | None = None, **options: Any) -> Truth:
    """Return the ground truth that a path names.

    Args:
        path: A tar or folder of ``<name>.jpg`` and ``<name>.json`` pairs as in SA-1B, a dataset directory, or
            a COCO instances file.
        images: Where the images are: needed for COCO, and for a dataset whose input was moved.
        options: More of `sam_engine.formats.source.ReadOptions`.

    Raises:
        ConfigError: There is no such thing, or it is of a kind that is not read.
    """
    source = open_source(path, images, **options)
    return Truth(source=source, indices=range(len(source)))


def _with_masks(image: AnnotatedImage) -> TruthImage | None:
    """Return the image with those of its masks that cover a pixel; None if there are none."""
    runs = tuple(runs for runs in image.runs if area_of(runs))
    return TruthImage(image_id=image.image_id, pixels=image.pixels, runs=runs) if runs else None
