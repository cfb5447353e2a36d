"""The images of a dataset: those that it holds, or those that it was made from, proven to be the same."""

import bisect
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sam_engine.config import DecodeConfig
from sam_engine.dataset.hidden import hidden_in
from sam_engine.dataset.manifest import Manifest, build_manifest
from sam_engine.dataset.merged_inputs import open_run_input, shown_as
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.row_problems import image_problems
from sam_engine.dataset.schema import IMAGE, MANIFEST
from sam_engine.dataset.stored_images import StoredImages
from sam_engine.errors import ImageError, InputError
from sam_engine.images.decode import decode_image
from sam_engine.images.encode import encode_jpeg
from sam_engine.inputs.source import Account, InputSource
from sam_engine.structures import ImageRecord, ImageStatus

NO_RULES = DecodeConfig()
Hide = Callable[[ImageRecord, np.ndarray], np.ndarray]
"""Returns the (H, W, 3) pixels of an image without what nobody may recognise, such as faces."""


@dataclass(frozen=True)
class Originals:
    """Images found by their records. Made by `open_images` or `open_originals`."""

    source: InputSource | None
    """None if it is gone: there is what is stored."""
    listing: Manifest
    """Of the source, sorted by path."""
    run_info: Mapping[str, Any] = field(default_factory=dict)
    """Of the dataset; see `shown_as`."""
    hide: Hide | None = None
    """None: the pixels as they are."""
    stored: StoredImages | None = None
    """Images that the dataset holds: they come first, for they are what it shows."""

    def pixels(self, record: ImageRecord) -> np.ndarray:
        """Return the (H, W, 3) uint8 RGB pixels that a record's masks refer to, or what `hide` makes of them.

        Raises:
            ImageError: VANISHED; CHANGED, if its bytes are not those that were annotated; or as `read` and
                `decode_image` raise it.
        """
        stored = self._stored(record)
        pixels = self._source_pixels(record) if stored is None else decode_image(stored, _caps(record)).pixels
        if pixels.shape[:2] != (record.height, record.width):
            size = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise ImageError(
                ImageStatus.CHANGED, f"it is {size} pixels; {record.width} x {record.height} were annotated"
            )
        return pixels if self.hide is None else self.hide(record, pixels)

    def jpeg(self, record: ImageRecord) -> bytes:
        """Return an image as JPEG, upright and without metadata. Raises as `pixels` does.

        What is stored is handed out as it is, so that copies of copies lose nothing.
        """
        stored = self._stored(record) if self.hide is None else None
        return encode_jpeg(self.pixels(record)) if stored is None else stored

    def _stored(self, record: ImageRecord) -> bytes | None:
        """Return the image that the dataset holds, or None; raises `ImageError` if it is not that image."""
        data = None if self.stored is None else self.stored.find(record.image_id)
        for problem in () if data is None else image_problems(record, data):
            raise ImageError(ImageStatus.CORRUPT, problem)
        return data

    def _source_pixels(self, record: ImageRecord) -> np.ndarray:
        """Return the pixels of the file that was annotated; raises as `pixels`."""
        if self.source is None:
            raise ImageError(ImageStatus.VANISHED, "it is not stored, and the input is gone")
        paths = self.listing.table["path_bytes"]
        row = bisect.bisect_left(range(len(paths)), record.path, key=lambda index: paths[index].as_py())
        if row == len(paths) or paths[row].as_py() != record.path:
            raise ImageError(ImageStatus.VANISHED, f"there is no such image in {self.source.root}")
        [entry] = self.listing.entries(row, row + 1)
        config = replace(
            _caps(record, shown_as(self.run_info, record.path)),
            exif=record.exif_orientation != 1,
            max_file_bytes=max(entry.size, DecodeConfig.max_file_bytes),
        )
        data = self.source.read(entry, config)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise ImageError(ImageStatus.CHANGED, "its bytes are not those that were annotated")
        return decode_image(data, config).pixels


def _caps(record: ImageRecord, config: DecodeConfig = NO_RULES) -> DecodeConfig:
    """Return settings for an image that the run's own allowed: it needs no more, and gets no more.

    Raises:
        ImageError: Its size is not known.
    """
    if record.width is None or record.height is None:
        raise ImageError(ImageStatus.UNSUPPORTED, "its size is not known")
    return replace(
        config,
        strict=False,
        max_pixels=record.width * record.height,
        max_side=max(record.width, record.height),
    )


def open_originals(run_info: Mapping[str, Any], images: str | None = None) -> Originals:
    """List the input of a run.

    Args:
        run_info: Of the dataset; it says where the images were.
        images: Where they are now, if not there any more: whatever ``input=`` takes.

    Raises:
        InputError: There are no images.
    """
    source = open_run_input(run_info, images)
    return Originals(source, build_manifest(source.iter_files(Account())), run_info)


def open_images(dataset: Dataset, images: str | None = None) -> Originals:
    """Return the images of a dataset: those that it holds, else those of its input, listed anew.

    Args:
        dataset: Whose images.
        images: Where its input is now; then what it holds is not asked.

    Raises:
        InputError: There are no images.
        ShardError: The dataset is damaged.
    """
    if images is None and IMAGE in dataset.extras:
        return images_as_listed(dataset)
    return open_originals(dataset.run_info, images)


def images_as_listed(dataset: Dataset, images: str | None = None) -> Originals:
    """Return the images of a dataset as `open_images` does, but list nothing: its manifest knows the input.

    Of an input that something is hidden in, nothing takes the place of what is not stored.
    """
    run_info = dataset.run_info
    stored = StoredImages(dataset) if images is None and IMAGE in dataset.extras else None
    source = None
    try:
        if stored is None or hidden_in(dataset.store) is None:
            source = open_run_input(run_info, images)
    except InputError:
        if stored is None:
            raise
    manifest = Manifest.from_bytes(dataset.store.read(MANIFEST))
    return Originals(source, manifest.by_path(), run_info, stored=stored)
