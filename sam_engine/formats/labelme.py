"""labelme's JSON, one file beside each image: masks as they are, so that they can be corrected there.

A mask is a shape of type ``mask``: the corners of its box, inclusive, and a PNG of what lies in it, as
base64. ``group_id`` holds the annotation's id, by which a corrected file is known again.

Source of the format: labelme's own files (``labelme/_label_file.py``, version 5).
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam_engine.dataset.corrections import Correction
from sam_engine.dataset.originals import Originals
from sam_engine.dataset.reader import Dataset
from sam_engine.errors import InputError
from sam_engine.files import refuse_used, write_atomically, writing_to
from sam_engine.formats.each_image import ImagesToWrite
from sam_engine.formats.returned import ReturnedImage
from sam_engine.formats.source import ExportSummary
from sam_engine.ops.rle import Runs, crop_to_runs, decode_counts, mask_to_runs
from sam_engine.structures import Annotation, ImageRecord

LABEL = "object"
"""Of masks that nobody named."""
VERSION = "5.8.1"
"""Of labelme, whose files these look like."""


def export_labelme(
    dataset: Dataset,
    output: Path,
    *,
    originals: Originals | None = None,
    corrections: Mapping[int, Sequence[Correction]] | None = None,
) -> ExportSummary:
    """Write ``<image id>.json``, and ``<image id>.jpg`` where it can be had, for every annotated image.

    Args:
        dataset: What to export.
        output: Folder for the files; it must be new or empty.
        originals: Where to take the images from; None writes annotations only.
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
        for record, masks, jpeg in each.images():
            name = f"{record.image_id:012d}"
            if jpeg is not None:
                write_atomically(output / f"{name}.jpg", jpeg)
            document = labelme_document(record, masks, f"{name}.jpg")
            write_atomically(output / f"{name}.json", json.dumps(document, indent=1) + "\n")
    return each.summary()


def labelme_document(
    record: ImageRecord, masks: Sequence[tuple[int, Annotation]], image_name: str
) -> dict[str, Any]:
    """Return what labelme writes for an image with these masks, each with its id."""
    return {
        "version": VERSION,
        "flags": {},
        "shapes": [_shape(identifier, mask) for identifier, mask in masks if mask.area],
        "imagePath": image_name,
        "imageData": None,
        "imageHeight": record.height,
        "imageWidth": record.width,
    }


def _shape(identifier: int, annotation: Annotation) -> dict[str, Any]:
    """Return one mask."""
    left, top, width, height = (int(value) for value in annotation.bbox)  # SA-1B's: inclusive ends
    crop = decode_counts(annotation.counts, annotation.size)[top : top + height + 1, left : left + width + 1]
    png = io.BytesIO()
    Image.fromarray(np.where(crop, np.uint8(255), np.uint8(0))).save(png, "PNG")
    return {
        "label": annotation.label or LABEL,
        "points": [[float(left), float(top)], [float(left + width), float(top + height)]],
        "group_id": identifier,
        "description": f"predicted IoU {annotation.predicted_iou:.3f}",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(png.getvalue()).decode(),
    }


def read_labelme(folder: Path) -> list[ReturnedImage]:
    """Return what labelme's files of a folder say, each named ``<image id>.json`` as `export_labelme` does.

    Masks and polygons come back; other shapes are refused, for they are no masks.

    Raises:
        InputError: There are no such files, or one is damaged.
    """
    paths = sorted(path for path in folder.glob("*.json") if path.stem.isdigit())
    if not paths:
        raise InputError(f"{folder}: holds no <image id>.json of labelme")
    return [_read_document(path) for path in paths]


def _read_document(path: Path) -> ReturnedImage:
    """Return the masks of one file."""
    try:
        document = json.loads(path.read_bytes())
        size = (int(document["imageHeight"]), int(document["imageWidth"]))
        masks = [(_identifier(shape), _runs(shape, size)) for shape in document["shapes"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no file of labelme's with masks ({error})") from error
    return ReturnedImage(place=str(path), image_id=int(path.stem), size=size, masks=masks)


def _identifier(shape: Mapping[str, Any]) -> int | None:
    """Return the id that a shape was exported with; None for one that was drawn in labelme."""
    identifier = shape.get("group_id")
    return None if identifier is None else int(identifier)


def _runs(shape: Mapping[str, Any], size: tuple[int, int]) -> Runs:
    """Return the run lengths of a shape."""
    height, width = size
    if shape["shape_type"] == "mask":
        left, top = (int(value) for value in shape["points"][0])
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True))) as png:
            png_width, png_height = png.size
            if not (0 <= left <= left + png_width <= width and 0 <= top <= top + png_height <= height):
                raise ValueError(f"a mask of {png_width} x {png_height} pixels at {left}, {top} leaves it")
            crop = np.asarray(png.convert("L")) > 0
        return crop_to_runs(crop, (top, left), size)
    if shape["shape_type"] == "polygon":
        import cv2  # late: `tools.export --help` comes by here

        filled = np.zeros(size, np.uint8)
        cv2.fillPoly(filled, [np.round(np.asarray(shape["points"], np.float64)).astype(np.int32)], 1)
        return mask_to_runs(filled.astype(bool))
    raise ValueError(f"a shape is a {shape['shape_type']}; masks and polygons come back")
