"""SA-1B's own form, read and written: ``sa_<id>.json`` beside ``sa_<id>.jpg``, in a folder or in tars."""

import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam_engine.dataset.corrections import Correction, corrected_annotations
from sam_engine.dataset.originals import Originals
from sam_engine.dataset.reader import Dataset
from sam_engine.errors import ImageError, InputError
from sam_engine.files import new_file, refuse_used, writing_to
from sam_engine.formats.each_image import ImagesToWrite, origin_of
from sam_engine.formats.source import (
    AS_STORED,
    KINDS,
    AnnotatedImage,
    ExportSummary,
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
        except (ValueError, KeyError, TypeError) as error:
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


def open_sa1b_source(path: Path, options: ReadOptions) -> Sa1bSource:
    """Return the source of pairs in a folder and below, in a tar, a zip, or all that match a glob or range.

    Raises:
        InputError: There is no such thing, it holds no pairs or is not whole; or images are given, which it
            holds itself.
    """
    if not path.exists() and not set(str(path)) & set("*?[{"):
        raise InputError(f"{path}: there is no such file or folder; give {KINDS}")
    files = open_input(str(path), ListingRules(suffixes=(".jpg", ".json")))
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


def image_json(
    record: ImageRecord,
    masks: Sequence[tuple[int, Annotation]] | None = None,
    *,
    original_name: bool = False,
    stem: str | None = None,
) -> bytes:
    """Return SA-1B's file for one image: compact, on one line, its keys in SA-1B's order.

    Args:
        record: The image.
        masks: Its masks, each with its id; None for those of the record.
        original_name: Say what the image's file was called.
        stem: Of the copy's name; None for SA-1B's, ``sa_<id>``.
    """
    origin = origin_of(record)
    if not original_name:
        del origin["original_name"]
    masks = corrected_annotations(record, ()) if masks is None else masks
    document = {
        "image": {
            "image_id": record.image_id,
            "width": record.width,
            "height": record.height,
            "file_name": f"{stem or f'sa_{record.image_id}'}.jpg",
            **origin,
        },
        "annotations": [_annotation_json(annotation, identifier) for identifier, annotation in masks],
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def export_sa1b(
    dataset: Dataset,
    output: Path,
    *,
    originals: Originals | None = None,
    tar: bool = False,
    corrections: Mapping[int, Sequence[Correction]] | None = None,
) -> ExportSummary:
    """Write every annotated image of a dataset as SA-1B has it.

    Images that failed are left out; images without masks have an empty list. Copies are upright JPEG,
    whatever the original is.

    Args:
        dataset: What to export. One row group is in memory at a time.
        output: Folder for the files; it must be new or empty.
        originals: Where to take the images from; None writes annotations only.
        tar: Write ``sa_000000.tar``, ..., one per shard, instead of single files. Same dataset, same bytes.
        corrections: By image id, applied to what is written.

    Raises:
        ConfigError: ``output`` is in use.
        ShardError: The dataset is damaged.
        StorageError: The output cannot be written.
    """
    refuse_used(output)
    each = ImagesToWrite(dataset, originals=originals, corrections=corrections)
    with writing_to(output):
        output.mkdir(parents=True, exist_ok=True)
        for index in sorted(dataset.shards):
            with open_tar(output / f"sa_{index:06d}.tar") if tar else _open_folder(output) as add:
                for record, masks, jpeg in each.images(shards=[index]):
                    if jpeg is not None:
                        add(f"sa_{record.image_id}.jpg", jpeg)
                    add(f"sa_{record.image_id}.json", image_json(record, masks, original_name=True))
    return each.summary()


def _annotation_json(annotation: Annotation, identifier: int) -> dict[str, Any]:
    """Return one annotation. Boxes and points are floats, as in nearly all of SA-1B's files."""
    return {
        "bbox": [float(value) for value in annotation.bbox],
        "area": annotation.area,
        "segmentation": {"size": list(annotation.size), "counts": annotation.counts},
        "predicted_iou": annotation.predicted_iou,
        "point_coords": [[float(x), float(y)] for x, y in annotation.point_coords],
        "crop_box": [float(value) for value in annotation.crop_box],
        "id": identifier,
        "stability_score": annotation.stability_score,
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
