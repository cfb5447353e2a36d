"""What every format is: annotated images by number, and the checks and the summary that formats share.

A source lists its images when it is opened, and reads one when it is asked for it, in any order. It is
picklable, so that the processes that prepare batches can have it. No torch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sam_engine.config import DecodeConfig
from sam_engine.dataset.corrections import Correction, corrected_annotations
from sam_engine.dataset.reader import Dataset
from sam_engine.errors import ImageError, RleError
from sam_engine.ops.rle import Runs, counts_to_runs, decode_runs
from sam_engine.structures import Annotation, ImageRecord, ImageStatus

KINDS = "SA-1B as a folder, tars or a zip, a dataset of pipelines.auto_annotate, or a COCO .json file"
AS_STORED = DecodeConfig(exif=False)
"""Annotations of SA-1B and COCO refer to the pixels as they are stored."""


MALFORMED = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What is raised where a file that people and other tools wrote is taken at its word."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotatedImage:
    """One image with its masks."""

    image_id: int
    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    runs: Sequence[Runs]
    """Run lengths of each mask, see `sam_engine.ops.rle`; they fit the image."""

    @property
    def masks(self) -> list[NDArray[np.bool_]]:
        """(H, W) each."""
        return [self.mask(number) for number in range(len(self.runs))]

    def mask(self, number: int) -> NDArray[np.bool_]:
        """Return one mask, (H, W)."""
        height, width = self.pixels.shape[:2]
        return decode_runs(self.runs[number], (height, width))


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a user may have to say besides the path of a source."""

    images: str | None = None
    """Where the images are: the folder of a COCO file's; of a dataset, where its input is now."""
    coco_frame: str | None = None
    """upright or stored: what a COCO file refers to where sizes do not tell. None: refuse such images."""
    corrections: str = "apply"
    """apply, or ignore: what people corrected in a dataset of ours."""
    partial: bool = False
    """Take what is there of a dataset of ours that is half made, in place of refusing it."""


READ_SETTINGS = ("coco_frame", "corrections", "partial")
"""Those that a program has one of for all of its sources, under these names."""


class Source(Protocol):
    """Annotated images of one place, in an order that does not change."""

    @property
    def name(self) -> str:
        """Short, for logs and metadata."""
        ...

    def __len__(self) -> int: ...

    def image_id(self, index: int) -> int:
        """Return the id of an image, without reading its pixels."""
        ...

    def licence(self, index: int) -> str | None:
        """Return the licence that the source itself names, such as ``CC BY-NC 2.0``."""
        ...

    def read(self, index: int) -> AnnotatedImage:
        """Return an image with its masks.

        Raises:
            ImageError: It cannot be read, or its annotations do not fit it.
        """
        ...


def records_to_write(
    dataset: Dataset, corrections: Mapping[int, Sequence[Correction]], *, shards: Iterable[int] | None = None
) -> Iterator[tuple[ImageRecord, list[Annotation]]]:
    """Yield every image of a dataset with its masks as people left them, each with its id.

    Raises:
        ShardError: As `Dataset.checked_records`.
        InputError: A correction does not fit its image.
    """
    for record in dataset.checked_records(shards=shards):
        yield record, corrected_annotations(record, corrections.get(record.image_id, ()))


def checked_runs(segmentations: Sequence[Any], size: tuple[int, ...]) -> tuple[Runs, ...]:
    """Return the run lengths of compressed COCO masks, known to fit an image of ``size`` (H, W).

    Raises:
        ImageError: One is malformed or of another size.
    """
    height, width = size
    runs = []
    for segmentation in segmentations:
        try:
            counts, stated = segmentation["counts"], tuple(segmentation["size"])
            if stated != size:
                raise bad_annotations(f"a mask of {list(stated)} on an image of {list(size)} (H, W)")
            runs.append(counts_to_runs(counts, (height, width)))
        except (RleError, KeyError, TypeError, AttributeError) as error:
            raise bad_annotations(f"a mask is malformed: {error}") from error
    return tuple(runs)


def bad_annotations(message: str) -> ImageError:
    """Return the error of annotations that cannot be used."""
    return ImageError(ImageStatus.CORRUPT, message)
