"""Pixels for pages: the annotated images, proven to be the same, re-encoded and never as they came.

What a page gets is a JPEG made here, so that neither scripts hidden in files nor where a photo was taken
(EXIF) leave the disk.
"""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_engine.config import PrivacyConfig
from sam_engine.dataset.hidden import HIDDEN, Hidden, hidden_in, hidden_in_all
from sam_engine.dataset.originals import Originals, images_as_listed
from sam_engine.dataset.previews import draw_masks
from sam_engine.dataset.reader import Dataset
from sam_engine.errors import ImageError, SamEngineError
from sam_engine.privacy.open import Blur, kept_blur, open_blur
from sam_engine.structures import ImageRecord, ImageStatus

JPEG_QUALITY = 90
THUMBNAIL_SIDE = 320
"""Longer side of a thumbnail, in pixels."""
NOTHING_MORE = PrivacyConfig()
CACHED_BYTES = 64 * 2**20
"""Of JPEGs kept at once."""


class Pictures:
    """JPEGs of a dataset's images. Safe to use from several threads."""

    def __init__(
        self, dataset: Dataset, images: str | None = None, privacy: PrivacyConfig = NOTHING_MORE
    ) -> None:
        """Note where the images are; none is opened before the first picture.

        Args:
            dataset: Whose images. What it hides stays hidden.
            images: Where its input is now, if it has moved: whatever ``input=`` takes.
            privacy: What is hidden besides.

        Raises:
            ConfigError: The table of boxes or the detector of faces is missing or wrong.
            ShardError: What the dataset hides cannot be read.
        """
        self._dataset = dataset
        self._images = images
        self._kept = hidden_in(dataset.store)
        more = open_blur(privacy)
        asked = None if more is None else Hidden(faces=more.finds_faces, boxes=more.boxes)
        hidden = hidden_in_all([(b"", self._kept), (b"", asked)])
        self._of_source = _blur(hidden)
        self.hidden_sha256 = "" if hidden is None else hidden.sha256
        self._of_stored = more
        self._cache: OrderedDict[tuple[int, str], bytes] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()
        self._decoding = threading.Semaphore(2)  # large images at once would not fit into a laptop

    @cached_property
    def _originals(self) -> Originals:
        """Nothing is listed anew. What the dataset holds, it holds without what it hides."""
        found = images_as_listed(self._dataset, self._images)
        holds_hidden = found.stored is not None and self._kept is not None
        return replace(found, hide=self._of_stored if holds_hidden else self._of_source)

    @property
    def blurred(self) -> tuple[str, ...]:
        """What pictures do not show: ``faces``, ``boxes``."""
        blur = self._of_source
        if blur is None:
            return ()
        return tuple(name for name, is_on in (("faces", blur.finds_faces), ("boxes", blur.boxes)) if is_on)

    def full(self, record: ImageRecord) -> bytes:
        """Return an image in all its pixels.

        Raises:
            ImageError: It cannot be had any more, or is not what was annotated.
        """
        return self._cached((record.image_id, "full"), lambda: to_jpeg(self.pixels(record)))

    def thumbnail(self, record: ImageRecord, *, masks: bool) -> bytes:
        """Return a small image, with or without its masks over it. Raises as `full` does."""

        def draw() -> bytes:
            pixels = self.pixels(record)
            return to_jpeg(
                draw_masks(pixels, record if masks else replace(record, annotations=()), THUMBNAIL_SIDE)
            )

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


def _blur(hidden: Hidden | None) -> Blur | None:
    """Return what hides it."""
    return None if hidden is None else kept_blur(faces=hidden.faces, boxes=hidden.boxes, name=HIDDEN)


def to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return (H, W, 3) RGB as what a page shows."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=JPEG_QUALITY)
    return data.getvalue()
