"""The images that a dataset was made from, found again and proven to be the same."""

import bisect
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sam_engine.config import DecodeConfig
from sam_engine.dataset.manifest import Manifest, build_manifest
from sam_engine.dataset.merged_inputs import open_run_input, shown_as
from sam_engine.errors import ImageError
from sam_engine.images.decode import decode_image
from sam_engine.inputs.source import Account, InputSource
from sam_engine.structures import ImageRecord, ImageStatus

Hide = Callable[[ImageRecord, np.ndarray], np.ndarray]
"""Returns the (H, W, 3) pixels of an image without what nobody may recognise, such as faces."""


@dataclass(frozen=True)
class Originals:
    """An input listed anew, in which images are found by their path. Made by `open_originals`."""

    source: InputSource
    listing: Manifest
    run_info: Mapping[str, Any] = field(default_factory=dict)
    """Of the dataset; see `shown_as`."""
    hide: Hide | None = None
    """None: the pixels as they are."""

    def pixels(self, record: ImageRecord) -> np.ndarray:
        """Return the (H, W, 3) uint8 RGB pixels that a record's masks refer to, or what `hide` makes of them.

        Raises:
            ImageError: VANISHED; CHANGED, if its bytes are not those that were annotated; or as `read` and
                `decode_image` raise it.
        """
        paths = self.listing.table["path_bytes"]
        row = bisect.bisect_left(range(len(paths)), record.path, key=lambda index: paths[index].as_py())
        if row == len(paths) or paths[row].as_py() != record.path:
            raise ImageError(ImageStatus.VANISHED, f"there is no such image in {self.source.root}")
        if record.width is None or record.height is None:
            raise ImageError(ImageStatus.UNSUPPORTED, "its size is not known")
        [entry] = self.listing.entries(row, row + 1)
        # The row says what the run's own settings allowed: the same file needs no more, and gets no more.
        config = replace(
            shown_as(self.run_info, record.path),
            strict=False,
            exif=record.exif_orientation != 1,
            max_pixels=record.width * record.height,
            max_side=max(record.width, record.height),
            max_file_bytes=max(entry.size, DecodeConfig.max_file_bytes),
        )
        data = self.source.read(entry, config)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise ImageError(ImageStatus.CHANGED, "its bytes are not those that were annotated")
        pixels = decode_image(data, config).pixels
        if pixels.shape[:2] != (record.height, record.width):
            size = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise ImageError(
                ImageStatus.CHANGED, f"it is {size} pixels; {record.width} x {record.height} were annotated"
            )
        return pixels if self.hide is None else self.hide(record, pixels)


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
