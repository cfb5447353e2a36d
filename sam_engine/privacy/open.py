"""From what a user asks for to what hides it."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sam_engine.config import PrivacyConfig
from sam_engine.privacy.blur import blur_boxes
from sam_engine.privacy.box_table import BoxTable, read_boxes
from sam_engine.privacy.faces import open_face_detector
from sam_engine.structures import ImageRecord


class Blur:
    """Blurs what an image must not show, and counts it."""

    def __init__(
        self,
        find: Callable[[ImageRecord, NDArray[np.uint8]], NDArray[np.float64]],
        table: BoxTable | None = None,
    ) -> None:
        """Take what finds the boxes of an image, (N, 4) as XYWH; and their table, if it is one."""
        self._find = find
        self._table = table
        self.num_seen = 0
        """Images until now."""
        self.num_images = 0
        """Those of them that something was blurred in."""
        self.num_regions = 0

    def __call__(self, record: ImageRecord, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the (H, W, 3) pixels of an image, blurred.

        Raises:
            ConfigError: As `BoxTable.of`.
        """
        boxes_xywh = self._find(record, pixels)
        self.num_seen += 1
        self.num_images += len(boxes_xywh) > 0
        self.num_regions += len(boxes_xywh)
        return blur_boxes(pixels, boxes_xywh)

    def describe(self) -> str:
        """Return what was done, in a sentence."""
        return f"{self.num_regions} regions were blurred, in {self.num_images} of {self.num_seen} images"

    def notes(self, paths: Sequence[bytes]) -> list[str]:
        """Return what does not fit the images of a dataset, a line each. Raises as `BoxTable.notes`."""
        return [] if self._table is None else self._table.notes(paths)


def open_blur(config: PrivacyConfig) -> Blur | None:
    """Return what blurs; None where nothing is to be blurred.

    Raises:
        ConfigError: The table or the detector is missing or wrong.
    """
    config.check_pair()
    if config.boxes is not None:
        table = read_boxes(config.boxes)
        return Blur(lambda record, pixels: table.of(record.path, (pixels.shape[0], pixels.shape[1])), table)
    if config.blur == "faces":
        detect = open_face_detector()
        return Blur(lambda _, pixels: detect(pixels))
    return None
