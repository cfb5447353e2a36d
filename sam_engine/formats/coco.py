"""COCO instances, read and written: one JSON file that pycocotools, FiftyOne and detectron2 open.

Read are polygons and run lengths, no crowds. Written masks stay run-length encoded: polygons would lose their
holes. There is one category, because Segment Anything finds things without naming them.
"""

import base64
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sam_engine.config import DecodeConfig
from sam_engine.dataset.corrections import Correction
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import annotation_id
from sam_engine.errors import ImageError, InputError
from sam_engine.files import new_file, refuse_used, writing_to
from sam_engine.formats.source import (
    AS_STORED,
    KINDS,
    AnnotatedImage,
    ExportSummary,
    ReadOptions,
    bad_annotations,
    checked_runs,
    records_to_write,
    refuse_unknown,
)
from sam_engine.images.decode import decode_image
from sam_engine.ops.rle import Runs, decode_runs, mask_to_runs
from sam_engine.structures import Annotation, ImageRecord, ImageStatus

log = logging.getLogger(__name__)

CATEGORY_ID = 1
CATEGORY = {"id": CATEGORY_ID, "name": "object", "supercategory": "object"}
_ANNOTATED = (ImageStatus.OK, ImageStatus.OK_EMPTY)


FRAMES = ("upright", "stored")
"""What an image's width, height and masks can refer to, where its file has an orientation."""

IMAGE_FIELDS = {
    "licence": "license",
    "attribution": "attribution",
    "source_url": "coco_url",
    "source_key": "source_key",
    "frame_time_s": "frame_time_s",
}
"""What a COCO image calls the dataset's columns; ``license`` is a number of its list."""
_CC_NAME = re.compile(r"CC[ -]([A-Za-z-]+)[ -](\d\.\d)")
_CC_URL = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/([\d.]+)")
_MAX_OVERHANG = 100.0
"""Pixels by which a polygon may leave its image."""


@dataclass(frozen=True, kw_only=True)
class CocoSource:
    """The images of a COCO instances file that have an annotation which is not a crowd."""

    path: Path
    folder: Path
    """Of the images."""
    images: Sequence[Mapping[str, Any]]
    """As in the file: id, file_name, license."""
    segmentations: Mapping[int, Sequence[Any]]
    """By image id."""
    licences: Mapping[Any, str]
    """By the file's own numbers."""
    frame: str | None
    """upright or stored: what widths, heights and masks refer to, if that is known of the file."""

    @property
    def name(self) -> str:
        """Of the file."""
        return self.path.stem

    def __len__(self) -> int:
        return len(self.images)

    def image_id(self, index: int) -> int:
        """Return COCO's id."""
        return int(self.images[index]["id"])

    def licence(self, index: int) -> str | None:
        """Return the licence of the image, Creative Commons by their usual short names."""
        return self.licences.get(self.images[index].get("license"))

    def read(self, index: int) -> AnnotatedImage:
        """Return an image with its masks; raises as `Source.read`."""
        image = self.images[index]
        path = self.folder / _file_name(image)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ImageError(ImageStatus.UNREADABLE, f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise ImageError(ImageStatus.VANISHED, f"{str(path)!a}: {error}") from error
        pixels = _pixels_in_frame(data, image, self.frame)
        runs = [_runs(segmentation, pixels) for segmentation in self.segmentations[image["id"]]]
        return AnnotatedImage(image_id=self.image_id(index), pixels=pixels, runs=runs)


def open_coco_source(path: Path, options: ReadOptions) -> CocoSource:
    """Return the source of a COCO instances file and the folder of its images.

    Raises:
        InputError: The file is no such thing, or the folder is not given or not there.
    """
    images = options.images
    if images is None:
        raise InputError(
            f"{path} holds annotations alone, and data.images names no folder for it; give that of its "
            "images (an evaluation takes images=[FOLDER])"
        )
    if not Path(images).expanduser().is_dir():
        raise InputError(f"{path} holds annotations alone, and there is no folder {images} with its images")
    try:
        data = path.read_bytes()
        document = json.loads(data.decode(json.detect_encoding(data), "surrogateescape"))
        segmentations: dict[int, list[Any]] = defaultdict(list)
        num_boxes = 0
        for annotation in document["annotations"]:
            if annotation.get("iscrowd"):
                continue
            if annotation.get("segmentation"):
                segmentations[annotation["image_id"]].append(annotation["segmentation"])
            else:
                num_boxes += 1
        frame = (document.get("info") or {}).get("frame")
        listed = sorted(document["images"], key=lambda image: image["id"])
        listed = [image for image in listed if segmentations.get(image["id"]) and image["file_name"]]
        licences = {entry["id"]: _licence(entry) for entry in document.get("licenses", [])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no COCO instances file ({error!r}); give {KINDS}") from error
    if not listed:
        boxes = f", nor a box alone ({num_boxes} are)" if num_boxes else ""
        raise InputError(f"{path}: no image has an annotation that is not a crowd{boxes}")
    if num_boxes:
        log.warning("%s: %d annotations are boxes without a mask, and are passed over", path, num_boxes)
    if frame not in (*FRAMES, None):
        raise InputError(f"{path}: info.frame is {frame!r}; {' or '.join(FRAMES)} can be")
    return CocoSource(
        path=path,
        folder=Path(images).expanduser(),
        images=listed,
        segmentations=dict(segmentations),
        licences=licences,
        frame=frame or options.coco_frame,
    )


def export_coco(
    dataset: Dataset, output: Path, *, corrections: Mapping[int, Sequence[Correction]] | None = None
) -> ExportSummary:
    """Write a dataset as one COCO instances file.

    Images that failed are left out; images without masks are kept. Memory does not grow with the dataset.

    Args:
        dataset: What to export.
        output: The JSON file; it must not exist.
        corrections: By image id, applied to what is written.

    Raises:
        ConfigError: ``output`` exists.
        ShardError: The dataset is damaged.
        StorageError: The output cannot be written.
    """
    totals: Counter[str] = Counter()
    corrections = corrections or {}
    refuse_used(output)
    refuse_unknown(dataset, corrections)
    with writing_to(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with new_file(output) as file:
            _write_images(dataset, file, totals)
            _write_annotations(dataset, corrections, file, totals)
    return ExportSummary(
        num_images=totals["images"],
        num_masks=totals["masks"],
        num_failed=totals["failed"],
        num_missing=dataset.num_planned - dataset.num_images,
        num_corrected=totals["corrected"],
    )


def coco_annotation(record: ImageRecord, index: int) -> dict[str, Any]:
    """Return one COCO annotation.

    Its id is one more than the dataset's: COCOeval takes an annotation of id 0 for unmatched.
    """
    return _annotation_json(record.image_id, annotation_id(record.image_id, index), record.annotations[index])


def _annotation_json(image_id: int, identifier: int, annotation: Annotation) -> dict[str, Any]:
    """Return an annotation whose id in the dataset is ``identifier``."""
    return {
        "id": identifier + 1,
        "image_id": image_id,
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
                totals["failed"] += 1
                continue
            exact = row.pop("path_bytes")
            origin = {IMAGE_FIELDS[name]: value for name in known if (value := row.pop(name)) is not None}
            image = {"id": row.pop("image_id"), **row, **origin}
            if "license" in image:
                image["license"] = licences[image["license"]]
            if exact is not None:
                image["file_name_base64"] = base64.b64encode(exact).decode()
            file.write(separator + json.dumps(image).encode())
            separator = b",\n"
            totals["images"] += 1


def _write_annotations(
    dataset: Dataset,
    corrections: Mapping[int, Sequence[Correction]],
    file: BinaryIO,
    totals: Counter[str],
) -> None:
    """Write the annotations and the end of the file."""
    file.write(b'],\n"annotations": [')
    separator = b"\n"
    for record, masks in records_to_write(dataset, corrections):
        totals["corrected"] += record.image_id in corrections
        for identifier, annotation in masks:
            document = _annotation_json(record.image_id, identifier, annotation)
            file.write(separator + json.dumps(document, allow_nan=False).encode())
            separator = b",\n"
            totals["masks"] += 1
    file.write(b"]}\n")


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


def _licence(entry: Mapping[str, Any]) -> str:
    """Return a licence of COCO's list: ``CC BY-NC 2.0`` for the address of one, else its name."""
    match = _CC_URL.search(str(entry.get("url", "")))
    return f"CC {match[1].upper()} {match[2]}" if match else str(entry.get("name", ""))


def _file_name(image: Mapping[str, Any]) -> str:
    """Return the name of an image's file as the file system has it."""
    exact = image.get("file_name_base64")  # of our own exports, where the name is not UTF-8
    return os.fsdecode(base64.b64decode(exact)) if exact else str(image["file_name"])


def _pixels_in_frame(data: bytes, image: Mapping[str, Any], frame: str | None) -> NDArray[np.uint8]:
    """Return an image as its annotations see it: turned upright by its orientation, or as it is stored.

    The width and height that the file states decide; where both would fit, ``frame`` does.

    Raises:
        ImageError: Neither fits, or both do and nobody says which.
    """
    decoded = decode_image(data, DecodeConfig())
    upright = (decoded.pixels.shape[1], decoded.pixels.shape[0])
    stored = upright[::-1] if decoded.exif_orientation >= 5 else upright
    stated = (image.get("width", upright[0]), image.get("height", upright[1]))
    is_plain = decoded.exif_orientation == 1
    fitting = [name for name, size in zip(FRAMES, (upright, stored), strict=True) if stated == size]
    if is_plain and fitting:
        return decoded.pixels
    if "width" not in image or "height" not in image:
        fitting = list(FRAMES)
    if frame is not None:
        fitting = [name for name in fitting if name == frame]
    if not fitting:
        ours = f"{upright[0]} x {upright[1]}" + (
            "" if is_plain else f" upright, {stored[0]} x {stored[1]} stored"
        )
        said = f", in the {frame} frame" if frame else ""
        raise bad_annotations(f"annotated as {stated[0]} x {stated[1]} pixels{said}; its file has {ours}")
    if len(fitting) > 1:
        raise bad_annotations(
            f"its file has orientation {decoded.exif_orientation}, and its size does not tell whether the "
            "masks are of the image upright or as stored; say coco_frame=upright or coco_frame=stored"
        )
    return decoded.pixels if fitting == ["upright"] else decode_image(data, AS_STORED).pixels


def _runs(segmentation: Any, pixels: NDArray[np.uint8]) -> Runs:
    """Return the run lengths of one annotation, known to fit its image."""
    height, width = pixels.shape[:2]
    if isinstance(segmentation, list):
        return _polygon_runs(segmentation, height, width)
    if not isinstance(segmentation, dict) or isinstance(segmentation.get("counts"), str):
        [runs] = checked_runs([segmentation], pixels)
        return runs
    try:
        plain = np.asarray(segmentation.get("counts"), dtype=np.int64)
        decode_runs(plain, (height, width))
    except (ValueError, TypeError, OverflowError) as error:
        raise bad_annotations(f"run lengths do not fit an image of {height} x {width} ({error})") from error
    return plain


def _polygon_runs(polygons: list[Any], height: int, width: int) -> Runs:
    """Return the run lengths of polygons, rasterised as pycocotools does, which is what COCO is scored by."""
    from pycocotools import mask as mask_utils

    parts = []
    for polygon in polygons:
        try:
            corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        except (ValueError, TypeError) as error:
            raise bad_annotations(f"a polygon is no list of x, y, x, y, ... ({error})") from error
        reach = np.array([width, height]) + _MAX_OVERHANG
        if not (corners >= -_MAX_OVERHANG).all() or not (corners <= reach).all():
            raise bad_annotations(f"a polygon lies outside of its image of {width} x {height} pixels")
        if len(corners) >= 3:  # pycocotools takes two corners for a box
            parts.append(corners.ravel().tolist())
    if not parts:
        return np.array([height * width], dtype=np.int64)
    merged = mask_utils.merge(mask_utils.frPyObjects(parts, height, width))
    return mask_to_runs(mask_utils.decode(merged).astype(bool))
