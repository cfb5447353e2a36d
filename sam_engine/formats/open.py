"""Which format a path is in: one table, asked from the top."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam_engine.formats.coco import open_coco_source
from sam_engine.formats.ours import is_dataset, open_dataset_source
from sam_engine.formats.sa1b import open_sa1b_source
from sam_engine.formats.source import ReadOptions, Source
from sam_engine.storage.anywhere import is_file


@dataclass(frozen=True, kw_only=True)
class Format:
    """One row of the table."""

    name: str
    fits: Callable[[str], bool]
    """Whether a path is in this format, or nothing else would read it."""
    read: Callable[[str, ReadOptions], Source]
    """Opens a path, or a URL of an object store."""


FORMATS = (
    Format(name="dataset", fits=is_dataset, read=open_dataset_source),
    Format(name="coco", fits=lambda path: path.endswith(".json") and is_file(path), read=open_coco_source),
    Format(name="sa1b", fits=lambda path: True, read=open_sa1b_source),
)
"""The first that fits is taken, and the last fits anything."""


def open_source(path: str | Path, images: str | None = None, **options: Any) -> Source:
    """Return the source that a path names.

    Args:
        path: A tar, a zip or a folder of ``<name>.jpg`` with ``<name>.json`` beside it as in SA-1B, a glob or
            range of such tars, a dataset directory, or a COCO instances file.
        images: Where the images are. A COCO file needs their folder; a dataset knows where they were.
        options: More of `ReadOptions`.

    Raises:
        InputError: There is no such thing, it is of a kind that is not read, or it holds no images.
    """
    place = os.path.expanduser(path)
    return next(each for each in FORMATS if each.fits(place)).read(
        place, ReadOptions(images=images, **options)
    )
