"""SA-1B's own form, read and written: ``sa_<id>.json`` beside ``sa_<id>.jpg``, in a folder or in tars."""

import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam_engine.errors import ImageError, InputError
from sam_engine.files import new_file
from sam_engine.formats.each_image import ImagesToWrite, origin_of, said_of
from sam_engine.formats.source import (
    AS_STORED,
    KINDS,
    MALFORMED,
    AnnotatedImage,
    ReadOptions,
    bad_annotations,
    checked_runs,
)
from sam_engine.images.decode import decode_image
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import (
    Account,
    EmptyInputError,
    InputFile,
    InputSource,
    ListingRules,
    sorted_files,
)
from sam_engine.inputs.tar import TarInput
from sam_engine.storage.place import is_object_url
from sam_engine.structures import Annotation, ImageRecord, ManifestEntry

_ID_IN_NAME = re.compile(rb"sa_(\d+)\.jpg")

AddFile = Callable[[str, bytes], None]


@dataclass(frozen=True, kw_only=True)
class Sa1bSource:
    """Pairs of ``<stem>.jpg`` and ``<stem>.json``, in folders, tars or zips."""

    files: InputSource
    """What holds them, whichever it is."""
    pairs: Sequence[tuple[InputFile, InputFile]]
    """Of image and annotations."""

    @property
    def name(self) -> str:
        """Of the tar or the folder."""
        return self.files.name

    def __len__(self) -> int:
        return len(self.pairs)

    def image_id(self, index: int) -> int:
        """Return the number in the name, as SA-1B has it, or else what the annotations say."""
        match = _ID_IN_NAME.fullmatch(os.path.basename(self.pairs[index][0].path))
        return int(match[1]) if match else self._annotations(index)[0]

    def licence(self, index: int) -> str | None:
        """Return nothing: the format has no place for it."""
        return None

    def read(self, index: int) -> AnnotatedImage:
        """Return an image with its masks; raises as `Source.read`."""
        image_id, texts = self._annotations(index)
        if image_id != self.image_id(index):
            raise bad_annotations(f"{self._place(index, 1)} names image {image_id}")
        pixels = decode_image(self._bytes(index, 0), AS_STORED).pixels
        return AnnotatedImage(image_id=image_id, pixels=pixels, runs=checked_runs(texts, pixels.shape[:2]))

    def _annotations(self, index: int) -> tuple[int, list[Any]]:
        """Return the image's id and the segmentation of each of its masks."""
        data = self._bytes(index, 1)
        try:
            record = json.loads(data)
            return int(record["image"]["image_id"]), [a["segmentation"] for a in record["annotations"]]
        except MALFORMED as error:
            raise bad_annotations(f"{self._place(index, 1)} is not SA-1B's ({error!r})") from error

    def _bytes(self, index: int, part: int) -> bytes:
        """Return the bytes of an image (part 0) or of its annotations (part 1)."""
        file = self.pairs[index][part]
        entry = ManifestEntry(image_id=index, path=file.path, size=file.size, mtime_ns=file.mtime_ns)
        try:
            return self.files.read(entry, AS_STORED)
        except ImageError as error:
            raise ImageError(error.status, f"{self._place(index, part)}: {error}") from error

    def _place(self, index: int, part: int) -> str:
        """Return what to call an image, or its annotations, in a message."""
        return f"{self.files.root}/{os.fsdecode(self.pairs[index][part].path)}"


def open_sa1b_source(path: str | Path, options: ReadOptions) -> Sa1bSource:
    """Return the source of pairs in a folder and below, in a tar, a zip, or all that match a glob or range.

    Raises:
        InputError: There is no such thing, it holds no pairs or is not whole; or images are given, which it
            holds itself.
    """
    place = os.fspath(path)
    if not is_object_url(place) and not os.path.exists(place) and not set(place) & set("*?[{"):
        raise InputError(f"{path}: there is no such file or folder; give {KINDS}")
    files = open_input(place, ListingRules(suffixes=(".jpg", ".json")))
    if options.images is not None:
        raise InputError(
            f"{path} holds its images itself; data.images must be null for it, got {options.images!r}"
        )
    try:
        found = files.iter_files(Account()) if isinstance(files, TarInput) else sorted_files(files)
        listing = {file.path: file for file in found}
    except EmptyInputError:
        listing = {}
    pairs = [
        (file, listing[annotations])
        for path_bytes, file in listing.items()
        if path_bytes.endswith(b".jpg") and (annotations := path_bytes[:-4] + b".json") in listing
    ]
    if not pairs:
        raise InputError(f"{path}: holds no sa_<id>.jpg with sa_<id>.json beside it; give {KINDS}")
    return Sa1bSource(files=files, pairs=pairs)


def image_json(record: ImageRecord, masks: Sequence[Annotation], *, file_name: str) -> bytes:
    """Return SA-1B's file for one image: compact, on one line, its keys in SA-1B's order, then our own.

    Args:
        record: The image.
        masks: Its masks, with their ids.
        file_name: Of the copy.
    """
    document = {
        "image": {
            "image_id": record.image_id,
            "width": record.width,
            "height": record.height,
            "file_name": file_name,
            **origin_of(record),
        },
        "annotations": [_annotation_json(annotation) for annotation in masks],
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def write_sa1b(images: ImagesToWrite, folder: Path, *, tar: bool = False) -> None:
    """Write every annotated image of a dataset as SA-1B has it; images without masks have an empty list.

    Args:
        images: What to write.
        folder: Where to.
        tar: Write ``sa_000000.tar``, ..., one per shard, instead of single files. Same dataset, same bytes.
    """
    for index in sorted(images.dataset.shards):
        with open_tar(folder / f"sa_{index:06d}.tar") if tar else _open_folder(folder) as add:
            for record, masks, jpeg in images.images(shards=[index]):
                stem = f"sa_{record.image_id}"
                if jpeg is not None:
                    add(f"{stem}.jpg", jpeg)
                add(f"{stem}.json", image_json(record, masks, file_name=f"{stem}.jpg"))


def _annotation_json(annotation: Annotation) -> dict[str, Any]:
    """Return one annotation. Boxes and points are floats, as in nearly all of SA-1B's files."""
    return {
        "bbox": [float(value) for value in annotation.bbox],
        "area": annotation.area,
        "segmentation": {"size": list(annotation.size), "counts": annotation.counts},
        "predicted_iou": annotation.predicted_iou,
        "point_coords": [[float(x), float(y)] for x, y in annotation.point_coords],
        "crop_box": [float(value) for value in annotation.crop_box],
        "id": annotation.id,
        "stability_score": annotation.stability_score,
        **said_of(annotation),
    }


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[AddFile]:
    """Yield a function that adds a file to a folder."""

    def add(name: str, data: bytes) -> None:
        with new_file(folder / name) as file:
            file.write(data)

    yield add


@contextlib.contextmanager
def open_tar(path: Path) -> Iterator[AddFile]:
    """Yield a function that adds a file to a tar. Names, order and contents alone make its bytes."""
    with new_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)  # owner, group and time are 0, and the mode 0644
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

        yield add
