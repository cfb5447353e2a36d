"""Datasets in SA-1B's own form: ``sa_<id>.json`` beside ``sa_<id>.jpg``, flat, in a folder or in tars."""

import contextlib
import io
import json
import logging
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import simplejpeg

from sam_engine.dataset.originals import Originals
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import annotation_id
from sam_engine.errors import ImageError
from sam_engine.files import ExportSummary, new_file, refuse_used, writing_to
from sam_engine.structures import Annotation, ImageRecord

log = logging.getLogger(__name__)

JPEG_QUALITY = 95
"""Of the upright copies. Chroma is not subsampled, so that edges stay where the masks have them."""

AddFile = Callable[[str, bytes], None]


def image_json(record: ImageRecord) -> bytes:
    """Return SA-1B's file for one image: compact, on one line, its keys in SA-1B's order."""
    document = {
        "image": {
            "image_id": record.image_id,
            "width": record.width,
            "height": record.height,
            "file_name": f"sa_{record.image_id}.jpg",
        },
        "annotations": [
            _annotation_json(annotation, annotation_id(record.image_id, index))
            for index, annotation in enumerate(record.annotations)
        ],
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def export_sa1b(
    dataset: Dataset, output: Path, *, originals: Originals | None = None, tar: bool = False
) -> ExportSummary:
    """Write every annotated image of a dataset as SA-1B has it.

    Images that failed are left out; images without masks have an empty list. Copies are upright JPEG,
    whatever the original is.

    Args:
        dataset: What to export. One row group is in memory at a time.
        output: Folder for the files; it must be new or empty.
        originals: Where to take the images from; None writes annotations only.
        tar: Write ``sa_000000.tar``, ..., one per shard, instead of single files. Same dataset, same bytes.

    Raises:
        ConfigError: ``output`` is in use.
        ShardError: The dataset is damaged.
        StorageError: The output cannot be written.
    """
    totals: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    refuse_used(output)
    with writing_to(output):
        output.mkdir(parents=True, exist_ok=True)
        for index in sorted(dataset.shards):
            with _open_tar(output / f"sa_{index:06d}.tar") if tar else _open_folder(output) as add:
                for record in dataset.checked_records(shards=[index]):
                    if record.status.is_failure:
                        totals["failed"] += 1
                        continue
                    if originals is not None:
                        try:
                            add(f"sa_{record.image_id}.jpg", _jpeg(originals, record))
                            totals["copies"] += 1
                        except ImageError as error:
                            log.debug("image %d: %s", record.image_id, error)
                            missing[str(error.status)] += 1
                    add(f"sa_{record.image_id}.json", image_json(record))
                    totals["images"] += 1
                    totals["masks"] += len(record.annotations)
    return ExportSummary(
        num_images=totals["images"],
        num_masks=totals["masks"],
        num_failed=totals["failed"],
        num_copies=totals["copies"],
        missing=dict(sorted(missing.items())),
    )


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


def _jpeg(originals: Originals, record: ImageRecord) -> bytes:
    """Return the upright image as JPEG, without metadata."""
    pixels = originals.pixels(record)
    data: bytes = simplejpeg.encode_jpeg(
        pixels, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"
    )
    return data


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[AddFile]:
    """Yield a function that adds a file to a folder."""

    def add(name: str, data: bytes) -> None:
        with new_file(folder / name) as file:
            file.write(data)

    yield add


@contextlib.contextmanager
def _open_tar(path: Path) -> Iterator[AddFile]:
    """Yield a function that adds a file to a tar. Names, order and contents alone make its bytes."""
    with new_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)  # owner, group and time are 0, and the mode 0644
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

        yield add
