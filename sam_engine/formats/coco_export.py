"""COCO instances, written: one JSON file that pycocotools, supervision, FiftyOne and detectron2 open.

Masks are run lengths unless polygons are asked for, which lose holes. Categories are the labels of the masks;
those that nobody named are ``object``, because Segment Anything finds things without naming them.
"""

import base64
import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sam_engine.dataset.reader import Dataset
from sam_engine.errors import ConfigError
from sam_engine.files import new_file, new_folder, refuse_used, write_atomically
from sam_engine.formats.each_image import LINEAGE_FIELDS, ImagesToWrite, copy_name, name_of
from sam_engine.formats.polygons import PolygonCount, PolygonLoss, outlines_of
from sam_engine.ops.rle import counts_to_runs
from sam_engine.structures import Annotation, ImageStatus

SUPERCATEGORY = "object"
SEGMENTATIONS = ("compressed", "uncompressed", "polygons")
IMAGE_FIELDS = {
    "licence": "license",
    "attribution": "attribution",
    "source_url": "coco_url",
    "source_key": "source_key",
    "frame_time_s": "frame_time_s",
    **{name: name for name in LINEAGE_FIELDS},
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
    scored: bool = False
    """Say ``score``, the predicted IoU: in COCO's own terms such annotations are detections."""

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


def write_coco(
    images: ImagesToWrite,
    output: Path,
    *,
    rle: str | None = None,
    iscrowd: bool = False,
    polygons: bool = False,
) -> PolygonLoss | None:
    """Write a dataset as one COCO instances file, and copies of images to the folder `copies_of` it.

    Args:
        images: What to write. Without originals the names are those of the dataset, and there is no folder.
        output: The JSON file.
        rle: compressed, as it is if left out, or uncompressed.
        iscrowd: See `CocoForm`.
        polygons: Instead of run lengths.

    Returns:
        What polygons lost; None without polygons.

    Raises:
        ConfigError: The folder is in use, or what is asked for contradicts itself.
    """
    if polygons and (rle is not None or iscrowd):
        raise ConfigError("polygons go without rle and iscrowd, which are about run lengths")
    form = CocoForm(segmentation="polygons" if polygons else rle or "compressed", iscrowd=iscrowd)
    copies: contextlib.AbstractContextManager[Path | None] = contextlib.nullcontext()
    if images.originals is not None:
        refuse_used(copies_of(output))
        copies = new_folder(copies_of(output))
    output.parent.mkdir(parents=True, exist_ok=True)
    with new_file(output) as file, copies as folder:  # the file gets its name after the folder has
        return write_instances(images, file, folder, form)


def copies_of(output: Path) -> Path:
    """Return the folder of the copies that belong to a file: its name without ``.json``."""
    return output.with_suffix("") if output.suffix else output.with_name(f"{output.name}_images")


def write_instances(
    images: ImagesToWrite, file: BinaryIO, copies: Path | None, form: CocoForm
) -> PolygonLoss | None:
    """Write a COCO instances file. Images without masks are kept. Memory does not grow with the dataset.

    Args:
        images: What to write.
        file: Where to.
        copies: Folder for copies of the images, by whose names the file calls them; None for the dataset's.
        form: What its readers take.

    Returns:
        What polygons lost; None without polygons.
    """
    count = PolygonCount()
    categories = {name: number for number, name in enumerate(images.names, 1)}
    _write_images(images.dataset, file, categories, copied=copies is not None)
    separator = b""
    for record, masks, jpeg in images.images():
        if copies is not None and jpeg is not None:
            write_atomically(copies / copy_name(record.image_id), jpeg)
        for mask in masks:
            segmentation = _segmentation(mask, form, count)
            if segmentation is None:
                continue
            number = categories[name_of(mask.label)]
            document = coco_annotation(record.image_id, mask, category_id=number, segmentation=segmentation)
            document["iscrowd"] = int(form.iscrowd)
            if form.scored:
                document["score"] = mask.predicted_iou
            file.write(separator + b"\n" + json.dumps(document, allow_nan=False).encode())
            separator = b","
    file.write(b"]}\n")
    return count.loss() if form.segmentation == "polygons" else None


def coco_annotation(
    image_id: int, mask: Annotation, *, category_id: int = 1, segmentation: Any = None
) -> dict[str, Any]:
    """Return one COCO annotation, by default with the mask as compressed run lengths.

    Its id is one more than the dataset's: COCOeval takes an annotation of id 0 for unmatched. Its category is
    its label; there is no key ``label``, which FiftyOne would take for its own.
    """
    assert mask.id is not None, "masks that are exported have ids"
    return {
        "id": mask.id + 1,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": segmentation or {"size": list(mask.size), "counts": mask.counts},
        "area": mask.area,
        "bbox": _bbox(mask),
        "iscrowd": 0,
        "predicted_iou": mask.predicted_iou,
        "stability_score": mask.stability_score,
        "crop_box": list(mask.crop_box),
        "point_coords": [list(point) for point in mask.point_coords],
        **({} if mask.parent_id is None else {"parent_id": mask.parent_id}),
    }


def _segmentation(annotation: Annotation, form: CocoForm, count: PolygonCount) -> Any:
    """Return a mask as the form has it; None if it has no polygon."""
    size = list(annotation.size)
    if form.segmentation == "compressed":
        return {"size": size, "counts": annotation.counts}
    if form.segmentation == "uncompressed":
        return {"size": size, "counts": counts_to_runs(annotation.counts, annotation.size).tolist()}
    mask = annotation.mask()
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


def _write_images(dataset: Dataset, file: BinaryIO, categories: Mapping[str, int], *, copied: bool) -> None:
    """Write everything before the annotations, from the columns that are not masks."""
    info = {"description": "Segment Anything masks", "fingerprint": dataset.fingerprint, "frame": "upright"}
    licences = {licence: number for number, licence in enumerate(_licences_of(dataset), 1)}
    head = {
        "info": info,
        "licenses": [_licence_json(licence, number) for licence, number in licences.items()],
        "categories": [
            {"id": number, "name": name, "supercategory": SUPERCATEGORY}
            for name, number in categories.items()
        ],
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
                image["file_name"] = copy_name(image["id"])
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
