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

from sam_engine.errors import InputError
from sam_engine.files import write_atomically
from sam_engine.formats.each_image import ImagesToWrite, copy_name, name_of, origin_of
from sam_engine.formats.returned import ReturnedImage, ReturnedMask
from sam_engine.formats.source import MALFORMED
from sam_engine.ops.rle import Runs, crop_to_runs, mask_to_runs
from sam_engine.structures import Annotation, ImageRecord

VERSION = "5.8.1"
"""Of labelme, whose files these look like."""


def write_labelme(images: ImagesToWrite, folder: Path) -> None:
    """Write ``<image id>.json``, and ``<image id>.jpg`` where it can be had, for every annotated image."""
    for record, masks, jpeg in images.images():
        name = copy_name(record.image_id)
        if jpeg is not None:
            write_atomically(folder / name, jpeg)
        document = json.dumps(labelme_document(record, masks, name), indent=1) + "\n"
        write_atomically((folder / name).with_suffix(".json"), document)


def labelme_document(record: ImageRecord, masks: Sequence[Annotation], image_name: str) -> dict[str, Any]:
    """Return what labelme writes for an image with these masks; it keeps ``origin``, which is not its own."""
    return {
        "version": VERSION,
        "flags": {},
        "shapes": [_shape(mask) for mask in masks if mask.area],
        "imagePath": image_name,
        "imageData": None,
        "imageHeight": record.height,
        "imageWidth": record.width,
        "origin": origin_of(record),
    }


def _shape(annotation: Annotation) -> dict[str, Any]:
    """Return one mask."""
    left, top, width, height = (int(value) for value in annotation.bbox)  # SA-1B's: inclusive ends
    crop = annotation.mask()[top : top + height + 1, left : left + width + 1]
    png = io.BytesIO()
    Image.fromarray(np.where(crop, np.uint8(255), np.uint8(0))).save(png, "PNG")
    return {
        "label": name_of(annotation.label),
        "points": [[float(left), float(top)], [float(left + width), float(top + height)]],
        "group_id": annotation.id,
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
        masks = [
            ReturnedMask(id=_identifier(shape), runs=_runs(shape, size), name=shape.get("label"))
            for shape in document["shapes"]
        ]
    except MALFORMED as error:
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
