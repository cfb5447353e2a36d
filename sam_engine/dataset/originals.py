"""The images that a dataset was made from, found again and proven to be the same."""

import bisect
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sam_engine.config import DecodeConfig
from sam_engine.dataset.manifest import Manifest, build_manifest
from sam_engine.errors import ImageError, InputError
from sam_engine.images.decode import decode_image
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import Account, InputSource, ListingRules
from sam_engine.structures import ImageRecord, ImageStatus


@dataclass(frozen=True)
class Originals:
    """An input listed anew, in which images are found by their path. Made by `open_originals`."""

    source: InputSource
    listing: Manifest
    shown: DecodeConfig = field(default_factory=DecodeConfig)
    """What decided how pixels look: background, scale and bands. See `shown_as`."""

    def pixels(self, record: ImageRecord) -> np.ndarray:
        """Return the (H, W, 3) uint8 RGB pixels that a record's masks refer to.

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
            self.shown,
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
        return pixels


def open_originals(run_info: Mapping[str, Any], images: str | None = None) -> Originals:
    """List the input of a run.

    Args:
        run_info: Of the dataset; it says where the images were.
        images: Where they are now, if not there any more: whatever ``input=`` takes.

    Raises:
        InputError: There are no images.
    """
    settings, selection = (run_info.get(key) or {} for key in ("settings", "selection"))
    spec = images if images is not None else selection.get("input")
    if not isinstance(spec, str):
        raise InputError("the dataset does not say where its images are")
    source = open_input(spec, ListingRules(column=selection.get("input_column"), accept_incomplete=True))
    return Originals(source, build_manifest(source.iter_files(Account())), shown_as(settings))


def shown_as(settings: Mapping[str, Any]) -> DecodeConfig:
    """Return the settings of a run that decide how pixels look, as its ``run.json`` has them."""
    names = [name for name in ("background", "scale", "bands") if f"decode.{name}" in settings]
    return DecodeConfig(**{name: settings[f"decode.{name}"] for name in names})
