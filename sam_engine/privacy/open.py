"""From what a user asks for, or a dataset keeps, to what hides it."""

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sam_engine.config import PrivacyConfig
from sam_engine.privacy.blur import blur_boxes
from sam_engine.privacy.box_table import BoxTable, read_boxes
from sam_engine.privacy.faces import open_face_detector
from sam_engine.structures import ImageRecord, ManifestEntry


class Blur:
    """Blurs what an image must not show, and counts it. Safe to use from several threads."""

    def __init__(
        self,
        table: BoxTable | None = None,
        detect: Callable[[NDArray[np.uint8]], NDArray[np.float64]] | None = None,
    ) -> None:
        """Take a table of boxes, what finds those of an image, (N, 4) as XYWH, or both."""
        self._table = table
        self._detect = detect
        self._lock = threading.Lock()  # a network looks at one image at a time
        self.num_seen = 0
        """Images until now."""
        self.num_images = 0
        """Those of them that something was blurred in."""
        self.num_regions = 0

    @property
    def finds_faces(self) -> bool:
        """A detector looks for them."""
        return self._detect is not None

    @property
    def boxes(self) -> Mapping[bytes, NDArray[np.float64]]:
        """Of the table, by path."""
        return {} if self._table is None else self._table.boxes

    def __call__(self, image: ImageRecord | ManifestEntry, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the (H, W, 3) pixels of an image, blurred.

        Raises:
            ConfigError: As `BoxTable.of`.
        """
        size = (pixels.shape[0], pixels.shape[1])
        with self._lock:
            boxes_xywh = np.zeros((0, 4)) if self._table is None else self._table.of(image.path, size)
            if self._detect is not None:
                boxes_xywh = np.concatenate([boxes_xywh, self._detect(pixels)])
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
        return Blur(table=read_boxes(config.boxes))
    return Blur(detect=open_face_detector()) if config.blur == "faces" else None


def kept_blur(*, faces: bool, boxes: Mapping[bytes, NDArray[np.float64]], name: str) -> Blur:
    """Return what blurs as a dataset says.

    Args:
        faces: Look for them.
        boxes: (N, 4) as XYWH, by path.
        name: Of where that is written, for messages.

    Raises:
        ConfigError: The detector is missing or wrong.
    """
    table = BoxTable(path=name, boxes=boxes) if boxes else None
    return Blur(table=table, detect=open_face_detector() if faces else None)
