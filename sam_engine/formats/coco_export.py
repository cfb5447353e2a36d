"""COCO instances, written: one JSON file that pycocotools, supervision, FiftyOne and detectron2 open.

Masks are run lengths unless polygons are asked for, which lose holes. There is one category, because Segment
Anything finds things without naming them.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sam_engine.dataset.corrections import Correction
from sam_engine.dataset.originals import Originals
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import annotation_id
from sam_engine.errors import ConfigError
from sam_engine.files import new_file, refuse_used, write_atomically, writing_to
from sam_engine.formats.each_image import ImagesToWrite
from sam_engine.formats.polygons import PolygonCount, PolygonLoss, outlines_of
from sam_engine.formats.source import ExportSummary
from sam_engine.ops.rle import counts_to_runs, decode_counts
from sam_engine.structures import Annotation, ImageRecord, ImageStatus

CATEGORY_ID = 1
CATEGORY = {"id": CATEGORY_ID, "name": "object", "supercategory": "object"}
SEGMENTATIONS = ("compressed", "uncompressed", "polygons")
IMAGE_FIELDS = {
    "licence": "license",
    "attribution": "attribution",
    "source_url": "coco_url",
    "source_key": "source_key",
    "frame_time_s": "frame_time_s",
}
"""What a COCO image calls the dataset's columns; ``license`` is a number of its list."""
_CC_NAME = re.compile(r"CC[ -]([A-Za-z-]+)[ -](\d\.\d)")
_ANNOTATED = (ImageStatus.OK, ImageStatus.OK_EMPTY)


@dataclass(frozen=True, kw_only=True)
class CocoForm:
    """How COCO's readers differ in what they take."""

    segmentation: str = "compressed"
    """compressed or uncompressed run lengths, or polygons: outer outlines, whose holes are lost."""
    iscrowd: bool = False
    """Say ``iscrowd`` 1, without which some readers (labelformat) take no run lengths."""

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            ConfigError: There is no such segmentation, or polygons are to be crowds.
        """
        if self.segmentation not in SEGMENTATIONS:
            raise ConfigError(
                f"segmentation is {self.segmentation!r}; choose from {', '.join(SEGMENTATIONS)}"
            )
        if self.iscrowd and self.segmentation == "polygons":
            raise ConfigError("iscrowd=True says that masks are run lengths, and polygons are not")


def export_coco(
    dataset: Dataset,
    output: Path,
    *,
    form: CocoForm | None = None,
    originals: Originals | None = None,
    corrections: Mapping[int, Sequence[Correction]] | None = None,
) -> tuple[ExportSummary, PolygonLoss | None]:
    """Write a dataset as one COCO instances file.

    Images that failed are left out; images without masks are kept. Memory does not grow with the dataset.

    Args:
        dataset: What to export.
        output: The JSON file; it must not exist.
        form: What its readers take; None for compressed run lengths.
        originals: Where to take the images from, for upright copies in the folder `copies_of` the file, which
            must not exist either. None keeps the names of the dataset, and copies nothing.
        corrections: By image id, applied to what is written.

    Returns:
        What was written, and what polygons lost; None without polygons.

    Raises:
        ConfigError: ``output`` or the folder is in use.
        ShardError: The dataset is damaged.
        StorageError: The output cannot be written.
    """
    form = form or CocoForm()
    refuse_used(output)
    folder = copies_of(output) if originals is not None else None
    if folder is not None:
        refuse_used(folder)
    each = ImagesToWrite(dataset, originals=originals, corrections=corrections)
    count = PolygonCount()
    with writing_to(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with new_file(output) as file:
            _write_images(dataset, file, copied=folder is not None)
            separator = b""
            for record, masks, jpeg in each.images():
                if folder is not None and jpeg is not None:
                    write_atomically(folder / _copy_name(record.image_id), jpeg)
                for document in _annotations(record, masks, form, count):
                    file.write(separator + b"\n" + json.dumps(document, allow_nan=False).encode())
                    separator = b","
            file.write(b"]}\n")
    return each.summary(), count.loss() if form.segmentation == "polygons" else None


def copies_of(output: Path) -> Path:
    """Return the folder of the copies that belong to a file: its name without ``.json``."""
    return output.with_suffix("") if output.suffix else output.with_name(f"{output.name}_images")


def coco_annotation(record: ImageRecord, index: int) -> dict[str, Any]:
    """Return one COCO annotation, its mask as compressed run lengths.

    Its id is one more than the dataset's: COCOeval takes an annotation of id 0 for unmatched.
    """
    masks = [(annotation_id(record.image_id, index), record.annotations[index])]
    [document] = _annotations(record, masks, CocoForm(), PolygonCount())
    return document


def _annotations(
    record: ImageRecord, masks: Sequence[tuple[int, Annotation]], form: CocoForm, count: PolygonCount
) -> Iterator[dict[str, Any]]:
    """Yield what is written of an image's masks."""
    for identifier, annotation in masks:
        segmentation = _segmentation(annotation, form, count)
        if segmentation is None:
            continue
        yield {
            "id": identifier + 1,
            "image_id": record.image_id,
            "category_id": CATEGORY_ID,
            "segmentation": segmentation,
            "area": annotation.area,
            "bbox": _bbox(annotation),
            "iscrowd": int(form.iscrowd),
            "predicted_iou": annotation.predicted_iou,
            "stability_score": annotation.stability_score,
            "crop_box": list(annotation.crop_box),
            "point_coords": [list(point) for point in annotation.point_coords],
        }


def _segmentation(annotation: Annotation, form: CocoForm, count: PolygonCount) -> Any:
    """Return a mask as the form has it; None if it has no polygon."""
    size = list(annotation.size)
    if form.segmentation == "compressed":
        return {"size": size, "counts": annotation.counts}
    if form.segmentation == "uncompressed":
        return {"size": size, "counts": counts_to_runs(annotation.counts, annotation.size).tolist()}
    mask = decode_counts(annotation.counts, annotation.size)
    polygons = [outline.ravel().tolist() for outline in outlines_of(mask)]
    if not polygons:
        count.num_lost += 1
        return None
    count.ious.append(_filled_iou(mask, polygons))
    return polygons


def _filled_iou(mask: Any, polygons: list[list[int]]) -> float:
    """Return the IoU of a mask with its polygons as pycocotools fills them."""
    from pycocotools import mask as mask_utils

    filled = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, *mask.shape))).astype(bool)
    return float(np.logical_and(mask, filled).sum() / np.logical_or(mask, filled).sum())


def _bbox(annotation: Annotation) -> list[float]:
    """Return XYWH as pycocotools.mask.toBbox has it: width and height count pixels, one more than SA-1B's."""
    if not annotation.area:
        return [0.0, 0.0, 0.0, 0.0]
    x, y, w, h = annotation.bbox
    return [x, y, w + 1, h + 1]


def _copy_name(image_id: int) -> str:
    """Return the name of an image's copy, which is its id and nothing that a file was called."""
    return f"{image_id:012d}.jpg"


def _write_images(dataset: Dataset, file: BinaryIO, *, copied: bool) -> None:
    """Write everything before the annotations, from the columns that are not masks."""
    info = {"description": "Segment Anything masks", "fingerprint": dataset.fingerprint, "frame": "upright"}
    licences = {licence: number for number, licence in enumerate(_licences_of(dataset), 1)}
    head = {
        "info": info,
        "licenses": [_licence_json(licence, number) for licence, number in licences.items()],
        "categories": [CATEGORY],
    }
    file.write(json.dumps(head).removesuffix("}").encode() + b',\n"images": [')
    known = [name for name in IMAGE_FIELDS if name in dataset.extras]
    columns = ["image_id", "width", "height", "file_name", "path_bytes", "status", *known]
    separator = b"\n"
    for table in dataset.tables(columns):
        for row in table.to_pylist():
            if row.pop("status") not in _ANNOTATED:
                continue
            exact = row.pop("path_bytes")
            origin = {IMAGE_FIELDS[name]: value for name in known if (value := row.pop(name)) is not None}
            image = {"id": row.pop("image_id"), **row, **origin}
            if "license" in image:
                image["license"] = licences[image["license"]]
            if copied:
                image["original_name"] = image["file_name"]
                image["file_name"] = _copy_name(image["id"])
            elif exact is not None:
                image["file_name_base64"] = base64.b64encode(exact).decode()
            file.write(separator + json.dumps(image).encode())
            separator = b",\n"
    file.write(b'],\n"annotations": [')


def _licences_of(dataset: Dataset) -> list[str]:
    """Return the licences of a dataset's images, each once, in the order of their names."""
    if "licence" not in dataset.extras:
        return []
    names = {name for table in dataset.tables(["licence"]) for name in table["licence"].unique().to_pylist()}
    return sorted(names - {None})


def _licence_json(licence: str, number: int) -> dict[str, Any]:
    """Return a licence of COCO's list, with its address where it is one of Creative Commons."""
    terms = _CC_NAME.fullmatch(licence)
    url = f"https://creativecommons.org/licenses/{terms[1].lower()}/{terms[2]}/" if terms else ""
    return {"id": number, "name": licence, "url": url}
