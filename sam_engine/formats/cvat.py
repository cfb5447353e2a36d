"""CVAT's XML for images, version 1.1, with masks as they are, so that they can be corrected there.

A mask is its box and the lengths of its runs in it, row by row, background first: COCO's go column by column
over the whole image. The attribute ``annotation_id`` holds the annotation's id, by which it is known again.

Source of the format: CVAT's documentation, "CVAT for images", and datumaro's reader of it.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from sam_engine.errors import InputError
from sam_engine.files import new_file, write_atomically
from sam_engine.formats.each_image import ImagesToWrite, copy_name, name_of
from sam_engine.formats.origins_table import new_origins
from sam_engine.formats.returned import ReturnedImage, ReturnedMask
from sam_engine.formats.source import MALFORMED
from sam_engine.ops.rle import Runs, crop_to_runs, decode_runs, mask_to_runs
from sam_engine.structures import Annotation, ImageRecord

ID_ATTRIBUTE = "annotation_id"
_NO_MASKS = ("box", "polygon", "polyline", "points", "ellipse", "cuboid", "skeleton")


def write_cvat(images: ImagesToWrite, folder: Path) -> None:
    """Write ``annotations.xml``, ``labels.json``, ``images/<image id>.jpg`` and ``origins.csv``.

    Masks without pixels are left out.
    """
    labels = [_label_json(name) for name in images.names]
    write_atomically(folder / "labels.json", json.dumps(labels, indent=1))
    with new_file(folder / "annotations.xml") as file, new_origins(folder) as add_origin:
        file.write(b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        file.write(ET.tostring(_meta(images.names)) + b"\n")
        for record, masks, jpeg in images.images():
            name = copy_name(record.image_id)
            if jpeg is not None:
                write_atomically(folder / "images" / name, jpeg)
            file.write(ET.tostring(cvat_image(record, masks, name)) + b"\n")
            add_origin(record)
        file.write(b"</annotations>\n")


def cvat_image(record: ImageRecord, masks: Sequence[Annotation], name: str) -> ET.Element:
    """Return the element of an image with these masks."""
    size = {"width": str(record.width), "height": str(record.height)}
    image = ET.Element("image", {"id": str(record.image_id), "name": name} | size)
    image.extend(_mask(mask) for mask in masks if mask.area)
    return image


def _mask(annotation: Annotation) -> ET.Element:
    """Return one mask."""
    left, top, width, height = (int(value) for value in annotation.bbox)  # SA-1B's: inclusive ends
    crop = annotation.mask()[top : top + height + 1, left : left + width + 1]
    rle = mask_to_runs(crop.T)  # of the transpose they go row by row
    place = {"left": left, "top": top, "width": width + 1, "height": height + 1}
    element = ET.Element(
        "mask",
        {"label": name_of(annotation.label), "source": "file", "occluded": "0", "z_order": "0"}
        | {"rle": ", ".join(str(run) for run in rle.tolist())}
        | {name: str(value) for name, value in place.items()},
    )
    ET.SubElement(element, "attribute", name=ID_ATTRIBUTE).text = str(annotation.id)
    return element


def _label_json(name: str) -> dict[str, Any]:
    """Return a label as CVAT's constructor of labels takes it, as text."""
    attribute = {"name": ID_ATTRIBUTE, "mutable": False, "input_type": "text", "values": [""]}
    return {"name": name, "type": "any", "attributes": [attribute | {"default_value": ""}]}


def _meta(labels: Sequence[str]) -> ET.Element:
    """Return what readers need to know of the labels."""
    meta = ET.Element("meta")
    parent = ET.SubElement(ET.SubElement(meta, "task"), "labels")
    for name in labels:
        label = ET.SubElement(parent, "label")
        ET.SubElement(label, "name").text = name
        attribute = ET.SubElement(ET.SubElement(label, "attributes"), "attribute")
        fields = {"name": ID_ATTRIBUTE, "mutable": "False", "input_type": "text", "default_value": ""}
        for key, value in (fields | {"values": ""}).items():
            ET.SubElement(attribute, key).text = value
    return meta


def read_cvat(path: Path) -> list[ReturnedImage]:
    """Return what CVAT's ``annotations.xml`` says of images that `export_cvat` wrote.

    Raises:
        InputError: It is no such file, a shape is no mask, or the masks have lost their ids.
    """
    path = path / "annotations.xml" if path.is_dir() else path
    try:
        return [_read_image(image, path) for image in _parsed(path.read_bytes()).iter("image")]
    except (ET.ParseError, *MALFORMED) as error:
        raise InputError(f"{path}: no XML of CVAT's for images, with masks ({error!r})") from error


def _parsed(data: bytes) -> ET.Element:
    """Return the root of a document that has no entities."""
    text = data.decode("utf-8")
    if "<!DOCTYPE" in text:
        raise ValueError("it has a document type, and CVAT's has none")
    return ET.fromstring(text)  # noqa: S314 - without a document type there are no entities


def _read_image(image: ET.Element, path: Path) -> ReturnedImage:
    """Return the masks of an image."""
    name = PurePosixPath(image.attrib["name"]).stem
    if not re.fullmatch(r"[0-9]{12}", name):
        raise ValueError(f"image {name!r} is not called by an id of twelve digits, as the copies are")
    size = (int(image.attrib["height"]), int(image.attrib["width"]))
    for shape in image:
        if shape.tag in _NO_MASKS:
            raise ValueError(f"image {name} has a {shape.tag}; masks come back")
    masks = [
        ReturnedMask(id=_identifier(mask), runs=_runs(mask, size), name=mask.get("label"))
        for mask in image.iter("mask")
    ]
    return ReturnedImage(place=f"{path}, image {name}", image_id=int(name), size=size, masks=masks)


def _identifier(mask: ET.Element) -> int | None:
    """Return the id that a mask was exported with; None for one that was drawn in CVAT."""
    for attribute in mask.iter("attribute"):
        if attribute.get("name") == ID_ATTRIBUTE:
            return int(attribute.text) if attribute.text and attribute.text.strip() else None
    raise ValueError(
        f"a mask has no attribute {ID_ATTRIBUTE}, which labels of the task need to have (labels.json), "
        "or all masks would be new"
    )


def _runs(mask: ET.Element, size: tuple[int, int]) -> Runs:
    """Return the run lengths of a mask."""
    left, top, width, height = (int(mask.attrib[name]) for name in ("left", "top", "width", "height"))
    if not (0 <= left < left + width <= size[1] and 0 <= top < top + height <= size[0]):
        raise ValueError(f"a mask of {width} x {height} pixels at {left}, {top} leaves its image")
    rle = np.array([int(run) for run in mask.attrib["rle"].split(",")], np.int64)
    return crop_to_runs(decode_runs(rle, (width, height)).T, (top, left), size)
