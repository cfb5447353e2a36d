"""Pixels for pages: the annotated images, proven to be the same, re-encoded and never as they came.

What a page gets is a JPEG made here, so that neither scripts hidden in files nor where a photo was taken
(EXIF) leave the disk.
"""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.merged_inputs import open_run_input
from sam_engine.dataset.originals import Originals
from sam_engine.dataset.previews import draw_masks
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import MANIFEST
from sam_engine.errors import ImageError, SamEngineError
from sam_engine.structures import ImageRecord, ImageStatus

JPEG_QUALITY = 90
THUMBNAIL_SIDE = 320
"""Longer side of a thumbnail, in pixels."""
CACHED_BYTES = 64 * 2**20
"""Of JPEGs kept at once."""


class Pictures:
    """JPEGs of a dataset's images. Safe to use from several threads."""

    def __init__(self, dataset: Dataset, images: str | None = None) -> None:
        """Note where the images are; nothing is opened before the first picture.

        Args:
            dataset: Whose images.
            images: Where its input is now, if it has moved: whatever ``input=`` takes.
        """
        self._dataset = dataset
        self._images = images
        self._cache: OrderedDict[tuple[int, str], bytes] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()
        self._decoding = threading.Semaphore(2)  # large images at once would not fit into a laptop

    @cached_property
    def _originals(self) -> Originals:
        """The input, found by the manifest of the dataset: nothing is listed anew."""
        run_info = self._dataset.run_info
        manifest = Manifest.from_bytes(self._dataset.store.read(MANIFEST))
        return Originals(open_run_input(run_info, self._images), manifest.by_path(), run_info)

    def full(self, record: ImageRecord) -> bytes:
        """Return an image in all its pixels.

        Raises:
            ImageError: It cannot be had any more, or is not what was annotated.
        """
        return self._cached((record.image_id, "full"), lambda: _to_jpeg(self.pixels(record)))

    def thumbnail(self, record: ImageRecord, *, masks: bool) -> bytes:
        """Return a small image, with or without its masks over it. Raises as `full` does."""

        def draw() -> bytes:
            pixels = self.pixels(record)
            return _to_jpeg(_shrink(draw_masks(pixels, record) if masks else pixels))

        return self._cached((record.image_id, f"thumbnail {masks}"), draw)

    def pixels(self, record: ImageRecord) -> NDArray[np.uint8]:
        """Return an image as (H, W, 3) uint8 RGB. Raises as `full` does."""
        with self._decoding:
            try:
                return self._originals.pixels(record)
            except ImageError:
                raise
            except (SamEngineError, OSError) as error:
                raise ImageError(ImageStatus.UNREADABLE, str(error)) from error

    def _cached(self, key: tuple[int, str], make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        data = make()
        with self._lock:
            if key not in self._cache:
                self._cache[key] = data
                self._cached_bytes += len(data)
            while self._cached_bytes > CACHED_BYTES and len(self._cache) > 1:
                self._cached_bytes -= len(self._cache.popitem(last=False)[1])
        return data


def _shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image whose longer side is at most `THUMBNAIL_SIDE`."""
    height, width = pixels.shape[:2]
    scale = min(1.0, THUMBNAIL_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=JPEG_QUALITY)
    return data.getvalue()
