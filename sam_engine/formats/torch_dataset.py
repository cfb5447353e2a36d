"""A dataset for torch's `DataLoader`: images with their masks as tensors."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sam_engine.formats.ours import open_dataset_source
from sam_engine.formats.source import ReadOptions

if TYPE_CHECKING:
    from torch import Tensor


class ImagesWithMasks:
    """The images of a dataset directory that have masks, as people left them, by number.

    It is a map-style dataset in torch's sense, can be pickled for workers, and imports torch when an image is
    read. Images differ in size, so that a loader needs ``batch_size=None``, or a ``collate_fn`` of its own.
    """

    def __init__(self, path: str | Path, images: str | None = None, **options: Any) -> None:
        """Open a dataset directory.

        Args:
            path: The directory.
            images: Where its images are now, if not where they were: whatever ``input=`` takes.
            options: More of `ReadOptions`: ``corrections="ignore"``, ``partial=True``.

        Raises:
            ConfigError: It is no dataset; `InputError`, if it has no masks or its images are gone.
            ShardError: It is damaged.
        """
        self._source = open_dataset_source(path, ReadOptions(images=images, **options))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, "int | Tensor"]:
        """Return ``image_id``, ``image`` (3, H, W) uint8 RGB, and ``masks`` (N, H, W) bool.

        Raises:
            IndexError: There is no such number.
            ImageError: The image is gone, or is not what was annotated.
        """
        import torch

        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        found = self._source.read(index)
        size = found.pixels.shape[:2]
        masks = np.stack(found.masks) if found.runs else np.zeros((0, *size), bool)
        return {
            "image_id": found.image_id,
            "image": torch.from_numpy(np.ascontiguousarray(found.pixels.transpose(2, 0, 1))),
            "masks": torch.from_numpy(np.ascontiguousarray(masks)),
        }
