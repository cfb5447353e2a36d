"""Images that prompts are given on: the dataset's own, and whatever is dropped onto a page."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sam_engine.config import DecodeConfig
from sam_engine.dataset.merged_inputs import shown_as
from sam_engine.dataset.places import Places
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import display_path
from sam_engine.errors import ImageError
from sam_engine.images.isolated import IsolatedDecoder
from sam_engine.structures import ImageRecord, ImageStatus
from sam_engine.web.pictures import Pictures, to_jpeg

UPLOAD = DecodeConfig(strict=False, max_pixels=64_000_000, max_file_bytes=64 * 2**20)
"""What may be dropped: larger files are refused unread, larger images by their header."""
KEPT_BYTES = 256 * 2**20
"""Of dropped files and the JPEGs made of them, together; the least recently used are forgotten."""


@dataclass(frozen=True, kw_only=True)
class PromptImage:
    """An image that can be encoded."""

    sha256: str
    """Of its file."""
    name: str
    """For people."""
    size: tuple[int, int]
    """(H, W)."""
    view: str
    """See `EmbeddingKey.view`."""
    pixels: Callable[[], NDArray[np.uint8]]
    """Returns (H, W, 3) uint8 RGB; raises `ImageError`."""
    jpeg: Callable[[], bytes]
    """Returns what a page shows; raises `ImageError`."""


class DatasetImages:
    """The images of a dataset, by id."""

    def __init__(self, dataset: Dataset, places: Places, pictures: Pictures) -> None:
        self._dataset = dataset
        self._places = places
        self._pictures = pictures

    def find(self, name: str) -> PromptImage | None:
        """Return the image whose id this is; None if there is none, or it could not be read."""
        if not (name.isascii() and name.isdigit() and len(name) < 17):
            return None
        record = self._places.find(int(name))
        if record is None or record.sha256 is None or record.width is None or record.height is None:
            return None
        return self.image_of(record)

    def image_of(self, record: ImageRecord) -> PromptImage:
        """Return the image of a row that has a size and a digest."""
        assert record.sha256 is not None
        assert record.width is not None
        assert record.height is not None
        return PromptImage(
            sha256=record.sha256,
            name=display_path(record.path),
            size=(record.height, record.width),
            view=self._view(record),
            pixels=lambda: self._pictures.pixels(record),
            jpeg=lambda: self._pictures.full(record),
        )

    def _view(self, record: ImageRecord) -> str:
        shown = shown_as(self._dataset.run_info, record.path)
        usual = DecodeConfig()
        looks, usually = ((how.background, how.scale, how.bands) for how in (shown, usual))
        hidden = self._pictures.hidden_sha256  # a page gets the embedding of what it may show
        return "" if (looks, hidden) == (usually, "") else repr((looks, hidden))


@dataclass(frozen=True, slots=True)
class _Upload:
    data: bytes
    jpeg: bytes
    name: str
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.data) + len(self.jpeg)


class UploadedImages:
    """Dropped images, by the sha256 of their files, in memory alone: of them only embeddings reach a disk.

    Files are decoded in a process of their own (`images.isolated`). Safe to use from several threads.
    """

    def __init__(self, config: DecodeConfig = UPLOAD, *, kept_bytes: int = KEPT_BYTES) -> None:
        """Note the limits; no process is started before the first image."""
        self.config = config
        self._kept_bytes = kept_bytes
        self._uploads: OrderedDict[str, _Upload] = OrderedDict()
        self._lock = threading.Lock()
        self._decoder: IsolatedDecoder | None = None

    def add(self, data: bytes, name: str) -> PromptImage:
        """Take a file that was dropped.

        Raises:
            ImageError: It is no image, damaged beyond reading, or too large.
        """
        pixels = self._decode(data)
        upload = _Upload(data, to_jpeg(pixels), name, (pixels.shape[0], pixels.shape[1]))
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            self._uploads[digest] = upload
            self._uploads.move_to_end(digest)
            while sum(map(len, self._uploads.values())) > self._kept_bytes and len(self._uploads) > 1:
                self._uploads.popitem(last=False)
        return self._image(digest, upload)

    def find(self, name: str) -> PromptImage | None:
        """Return the image whose file has this sha256; None if it was never dropped, or is forgotten."""
        with self._lock:
            upload = self._uploads.get(name)
            if upload is None:
                return None
            self._uploads.move_to_end(name)
        return self._image(name, upload)

    def close(self) -> None:
        """End the decoder's process."""
        with self._lock:
            if self._decoder is not None:
                self._decoder.close()
                self._decoder = None

    def _image(self, digest: str, upload: _Upload) -> PromptImage:
        return PromptImage(
            sha256=digest,
            name=upload.name,
            size=upload.size,
            view="",
            pixels=lambda: self._decode(upload.data),
            jpeg=lambda: upload.jpeg,
        )

    def _decode(self, data: bytes) -> NDArray[np.uint8]:
        if not data:
            raise ImageError(ImageStatus.CORRUPT, "the file is empty")
        with self._lock:
            if self._decoder is None:
                self._decoder = IsolatedDecoder(self.config)
            decoder = self._decoder
        return decoder.decode(data).pixels
