"""Datasets as COCO instances: one JSON file that pycocotools, FiftyOne, detectron2 and supervision open.

Masks stay run-length encoded: polygons would lose their holes. There is one category, because Segment
Anything finds things without naming them.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import annotation_id
from sam_engine.files import ExportSummary, new_file, refuse_used, writing_to
from sam_engine.structures import Annotation, ImageRecord, ImageStatus

CATEGORY_ID = 1
CATEGORY = {"id": CATEGORY_ID, "name": "object", "supercategory": "object"}

_ANNOTATED = (ImageStatus.OK, ImageStatus.OK_EMPTY)


def export_coco(dataset: Dataset, output: Path) -> ExportSummary:
    """Write a dataset as one COCO instances file.

    Images that failed are left out; images without masks are kept. Memory does not grow with the dataset.

    Args:
        dataset: What to export.
        output: The JSON file; it must not exist.

    Raises:
        ConfigError: ``output`` exists.
        ShardError: The dataset is damaged.
        StorageError: The output cannot be written.
    """
    totals: Counter[str] = Counter()
    refuse_used(output)
    with writing_to(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with new_file(output) as file:
            _write_images(dataset, file, totals)
            _write_annotations(dataset, file, totals)
    return ExportSummary(num_images=totals["images"], num_masks=totals["masks"], num_failed=totals["failed"])


def coco_annotation(record: ImageRecord, index: int) -> dict[str, Any]:
    """Return one COCO annotation.

    Its id is one more than the dataset's: COCOeval takes an annotation of id 0 for unmatched.
    """
    annotation = record.annotations[index]
    return {
        "id": annotation_id(record.image_id, index) + 1,
        "image_id": record.image_id,
        "category_id": CATEGORY_ID,
        "segmentation": {"size": list(annotation.size), "counts": annotation.counts},
        "area": annotation.area,
        "bbox": _bbox(annotation),
        "iscrowd": 0,
        "predicted_iou": annotation.predicted_iou,
        "stability_score": annotation.stability_score,
        "crop_box": list(annotation.crop_box),
        "point_coords": [list(point) for point in annotation.point_coords],
    }


def _bbox(annotation: Annotation) -> list[float]:
    """Return XYWH as pycocotools.mask.toBbox has it: width and height count pixels, one more than SA-1B's."""
    if not annotation.area:
        return [0.0, 0.0, 0.0, 0.0]
    x, y, w, h = annotation.bbox
    return [x, y, w + 1, h + 1]


def _write_images(dataset: Dataset, file: BinaryIO, totals: Counter[str]) -> None:
    """Write everything before the annotations, from the columns that are not masks."""
    info = {"description": "Segment Anything masks", "fingerprint": dataset.fingerprint}
    head = {"info": info, "licenses": [], "categories": [CATEGORY]}
    file.write(json.dumps(head).removesuffix("}").encode() + b',\n"images": [')
    columns = ["image_id", "width", "height", "file_name", "status"]
    separator = b"\n"
    for table in dataset.tables(columns):
        for row in table.to_pylist():
            if row.pop("status") not in _ANNOTATED:
                totals["failed"] += 1
                continue
            image = {"id": row.pop("image_id"), **row}
            file.write(separator + json.dumps(image).encode())
            separator = b",\n"
            totals["images"] += 1


def _write_annotations(dataset: Dataset, file: BinaryIO, totals: Counter[str]) -> None:
    """Write the annotations and the end of the file."""
    file.write(b'],\n"annotations": [')
    separator = b"\n"
    for record in dataset.checked_records():
        for index in range(len(record.annotations)):
            file.write(separator + json.dumps(coco_annotation(record, index), allow_nan=False).encode())
            separator = b",\n"
            totals["masks"] += 1
    file.write(b"]}\n")
