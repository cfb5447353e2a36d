"""Annotated images by number, whatever they are written in: what packing and streaming read. No torch.

A source lists its images when it is opened, and reads one when it is asked for it, in any order. It is
picklable, so that the processes that prepare batches can have it.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError, InputError, RleError
from sam_engine.images.decode import decode_image
from sam_engine.ops.rle import Runs, counts_to_runs, decode_runs
from sam_engine.structures import ImageStatus

KINDS = "an SA-1B tar or folder, a dataset of pipelines.auto_annotate, or a COCO .json file"
AS_STORED = DecodeConfig(exif=False)
"""Annotations of SA-1B and COCO refer to the pixels as they are stored."""

_ID_IN_NAME = re.compile(r"sa_(\d+)")


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


def open_source(path: str | Path, images: str | None = None) -> Source:
    """Return the source that a path names.

    Args:
        path: A tar or a folder of ``<name>.jpg`` with ``<name>.json`` beside it as in SA-1B, a dataset
            directory, or a COCO instances file.
        images: Where the images are. A COCO file needs their folder; a dataset knows where they were.

    Raises:
        InputError: There is no such thing, it is of a kind that is not read, or it holds no images.
    """
    place = Path(path)
    if (place / "_meta" / "run.json").is_file():
        from sam_engine.formats.ours import open_dataset_source

        return open_dataset_source(place, images)
    if place.is_file() and place.suffix == ".json":
        from sam_engine.formats.coco_source import open_coco_source

        return open_coco_source(place, images)
    if images is not None:
        raise InputError(f"{path} holds its images itself; data.images must be null for it, got {images!r}")
    if place.is_dir():
        return _open_pairs(place, {path.name: None for path in sorted(place.iterdir())})
    if place.is_file():
        return _open_pairs(place, _tar_members(place))
    raise InputError(f"{path}: there is no such file or folder; give {KINDS}")


@dataclass(frozen=True, slots=True)
class Slice:
    """A file in an uncompressed tar."""

    start: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Sa1bSource:
    """Pairs of ``<stem>.jpg`` and ``<stem>.json``, in a folder or in an uncompressed tar."""

    root: Path
    stems: Sequence[str]
    slices: Sequence[tuple[Slice, Slice]] | None
    """Of image and annotations in the tar; None for a folder."""

    @property
    def name(self) -> str:
        """Of the tar or the folder."""
        return self.root.stem if self.slices is not None else self.root.name

    def __len__(self) -> int:
        return len(self.stems)

    def image_id(self, index: int) -> int:
        """Return the number in the name, as SA-1B has it, or else what the annotations say."""
        match = _ID_IN_NAME.fullmatch(os.path.basename(self.stems[index]))
        return int(match[1]) if match else self._annotations(index)[0]

    def licence(self, index: int) -> str | None:
        """Return nothing: the format has no place for it."""
        return None

    def read(self, index: int) -> AnnotatedImage:
        """Return an image with its masks; raises as `Source.read`."""
        image_id, texts = self._annotations(index)
        if image_id != self.image_id(index):
            raise bad_annotations(f"{self._place(index)}.json names image {image_id}")
        pixels = decode_image(self._bytes(index, 0), AS_STORED).pixels
        return AnnotatedImage(image_id=image_id, pixels=pixels, runs=checked_runs(texts, pixels))

    def _annotations(self, index: int) -> tuple[int, list[Any]]:
        """Return the image's id and the segmentation of each of its masks."""
        data = self._bytes(index, 1)
        try:
            record = json.loads(data)
            return int(record["image"]["image_id"]), [a["segmentation"] for a in record["annotations"]]
        except (ValueError, KeyError, TypeError) as error:
            raise bad_annotations(f"{self._place(index)}.json is not SA-1B's ({error!r})") from error

    def _bytes(self, index: int, part: int) -> bytes:
        """Return the bytes of an image (part 0) or of its annotations (part 1)."""
        try:
            if self.slices is None:
                return (self.root / f"{self.stems[index]}.{'json' if part else 'jpg'}").read_bytes()
            piece = self.slices[index][part]
            with self.root.open("rb") as file:
                file.seek(piece.start)
                return file.read(piece.size)
        except OSError as error:
            raise ImageError(ImageStatus.UNREADABLE, f"{self._place(index)}: {error.strerror}") from error

    def _place(self, index: int) -> str:
        """Return what to call an image in a message."""
        return f"{self.root}/{self.stems[index]}"


def checked_runs(segmentations: Sequence[Any], pixels: NDArray[np.uint8]) -> tuple[Runs, ...]:
    """Return the run lengths of compressed COCO masks, known to fit an image.

    Raises:
        ImageError: One is malformed or of another size.
    """
    size = (pixels.shape[0], pixels.shape[1])
    runs = []
    for segmentation in segmentations:
        try:
            counts, stated = segmentation["counts"], tuple(segmentation["size"])
            if stated != size:
                raise bad_annotations(f"a mask of {list(stated)} on an image of {list(size)} (H, W)")
            runs.append(counts_to_runs(counts, size))
        except (RleError, KeyError, TypeError, AttributeError) as error:
            raise bad_annotations(f"a mask is malformed: {error}") from error
    return tuple(runs)


def bad_annotations(message: str) -> ImageError:
    """Return the error of annotations that cannot be used."""
    return ImageError(ImageStatus.CORRUPT, message)


def read_images(source: Source, *, limit: int | None = None) -> Iterator[AnnotatedImage]:
    """Yield the first ``limit`` images of a source in order; raises as `Source.read`."""
    for index in range(len(source) if limit is None else min(limit, len(source))):
        yield source.read(index)


def _open_pairs(root: Path, files: dict[str, Slice | None]) -> Sa1bSource:
    """Return the source of those files that are pairs, in the order given."""
    stems = [name[:-4] for name in files if name.endswith(".jpg") and f"{name[:-4]}.json" in files]
    if not stems:
        raise InputError(f"{root}: holds no sa_<id>.jpg with sa_<id>.json beside it; give {KINDS}")
    pairs = [(files[f"{stem}.jpg"], files[f"{stem}.json"]) for stem in stems]
    slices = [(image, annotations) for image, annotations in pairs if image and annotations]
    return Sa1bSource(root=root, stems=stems, slices=slices or None)


def _tar_members(path: Path) -> dict[str, Slice | None]:
    """Return where the regular files of an uncompressed tar lie."""
    members: dict[str, Slice | None] = {}
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # or it keeps an object for every member
                if member.isreg() and not member.issparse():
                    members[member.name.removeprefix("./")] = Slice(member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"{path}: cannot be read as an uncompressed tar archive ({error}); give {KINDS}"
        ) from error
    return members
