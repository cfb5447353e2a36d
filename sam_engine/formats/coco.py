"""COCO instances, read: as annotated images, and as what comes back of our own exports.

Masks are polygons or run lengths, compressed or not. Crowds are no truth for training, and are passed over
there.
"""

import base64
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError, InputError
from sam_engine.formats.returned import ReturnedImage, ReturnedMask
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
from sam_engine.inputs.source import located
from sam_engine.ops.rle import Runs, decode_runs, mask_to_runs
from sam_engine.storage.anywhere import open_file
from sam_engine.storage.place import is_object_url
from sam_engine.structures import ImageStatus

log = logging.getLogger(__name__)

FRAMES = ("upright", "stored")
"""What an image's width, height and masks can refer to, where its file has an orientation."""

_CC_URL = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/([\d.]+)")
_COPY_NAME = re.compile(r"(\d{12})\.jpg")
_MAX_OVERHANG = 100.0
"""Pixels by which a polygon may leave its image."""


@dataclass(frozen=True, kw_only=True)
class CocoSource:
    """The images of a COCO instances file that have an annotation which is not a crowd."""

    path: str
    folder: str
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
        return PurePosixPath(self.path).stem

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
        path = os.fsdecode(located(os.fsencode(self.folder), os.fsencode(_file_name(image))))
        try:
            with open_file(path) as file:
                data = file.read()
        except OSError as error:
            raise ImageError(ImageStatus.UNREADABLE, f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise ImageError(ImageStatus.VANISHED, f"{path!a}: {error}") from error
        pixels = _pixels_in_frame(data, image, self.frame)
        size = (pixels.shape[0], pixels.shape[1])
        runs = [_runs(segmentation, size) for segmentation in self.segmentations[self.image_id(index)]]
        return AnnotatedImage(image_id=self.image_id(index), pixels=pixels, runs=runs)


def open_coco_source(path: str | Path, options: ReadOptions) -> CocoSource:
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
    images = os.path.expanduser(images)
    if not is_object_url(images) and not os.path.isdir(images):
        raise InputError(f"{path} holds annotations alone, and there is no folder {images} with its images")
    try:
        with open_file(os.fspath(path)) as file:
            data = file.read()
        document = json.loads(data.decode(json.detect_encoding(data), "surrogateescape"))
        segmentations: dict[int, list[Any]] = defaultdict(list)
        num_boxes = 0
        for annotation in document["annotations"]:
            if annotation.get("iscrowd"):
                continue
            if _is_mask(annotation.get("segmentation")):
                segmentations[int(annotation["image_id"])].append(annotation["segmentation"])
            else:
                num_boxes += 1
        frame = (document.get("info") or {}).get("frame")
        listed = sorted(document["images"], key=lambda image: int(image["id"]))
        listed = [image for image in listed if segmentations.get(int(image["id"])) and image["file_name"]]
        licences = {entry["id"]: _licence(entry) for entry in document.get("licenses") or ()}
    except MALFORMED as error:
        raise InputError(f"{path}: no COCO instances file ({error!r}); give {KINDS}") from error
    if not listed:
        boxes = f", nor a box alone ({num_boxes} are)" if num_boxes else ""
        raise InputError(f"{path}: no image has an annotation that is not a crowd{boxes}")
    if num_boxes:
        log.warning("%s: %d annotations are boxes without a mask, and are passed over", path, num_boxes)
    if frame not in (*FRAMES, None):
        raise InputError(f"{path}: info.frame is {frame!r}; {' or '.join(FRAMES)} can be")
    return CocoSource(
        path=os.fspath(path),
        folder=images,
        images=listed,
        segmentations=dict(segmentations),
        licences=licences,
        frame=frame or options.coco_frame,
    )


def read_coco(path: Path, *, highest_id: int) -> list[ReturnedImage]:
    """Return what a COCO file says that was exported by us and edited elsewhere.

    Annotations are known again by their ids, which are the dataset's plus one. Those above all that the
    dataset has, and those without, are of masks that were drawn there. Crowds are masks like others.

    Args:
        path: The file.
        highest_id: Of the dataset's masks, added ones included; see `returned.highest_id`.

    Raises:
        InputError: It is no such file, its images were numbered anew, or a mask is damaged.
    """
    try:
        document = json.loads(path.read_bytes())
        images = document["images"]
        sizes = {_same_id(image): (int(image["height"]), int(image["width"])) for image in images}
        names = {category["id"]: str(category["name"]) for category in document.get("categories", [])}
        masks: dict[int, list[ReturnedMask]] = {image_id: [] for image_id in sizes}
        for annotation in document["annotations"]:
            image_id, identifier = int(annotation["image_id"]), annotation.get("id")
            known = identifier is not None and identifier - 1 <= highest_id
            mask = ReturnedMask(
                id=int(identifier) - 1 if known else None,
                runs=_runs(annotation["segmentation"], sizes[image_id]),
                name=names.get(annotation.get("category_id")),
            )
            masks[image_id].append(mask)
        num_polygons = sum(isinstance(each["segmentation"], list) for each in document["annotations"])
    except MALFORMED as error:
        raise InputError(f"{path}: no COCO file of an export of ours ({error!r})") from error
    if num_polygons:
        log.warning("%s: %d masks are polygons; holes of theirs are taken as closed", path, num_polygons)
    return [
        ReturnedImage(place=str(path), image_id=image_id, size=sizes[image_id], masks=found)
        for image_id, found in masks.items()
    ]


def _same_id(image: Mapping[str, Any]) -> int:
    """Return the id of an image of an export, which the name of its copy, if it is one, has to say too."""
    name = _COPY_NAME.fullmatch(str(image.get("file_name"))) if "original_name" in image else None
    if name and int(name[1]) != image["id"]:
        raise ValueError(f"image {image['id']} is {name[0]}: images were numbered anew")
    return int(image["id"])


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
    stated = (image.get("width"), image.get("height"))  # null like nothing: some programs write that
    is_plain = decoded.exif_orientation == 1
    fitting = [
        name
        for name, size in zip(FRAMES, (upright, stored), strict=True)
        if all(said in (None, is_so) for said, is_so in zip(stated, size, strict=True))
    ]
    if is_plain and fitting:
        return decoded.pixels
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


def _is_mask(segmentation: Any) -> bool:
    """Return whether an annotation has a mask: a box has none, though some programs write its corners."""
    if not isinstance(segmentation, list):
        return bool(segmentation)
    return any(not isinstance(part, list) or len(part) % 2 or len(part) >= 6 for part in segmentation)


def _runs(segmentation: Any, size: tuple[int, int]) -> Runs:
    """Return the run lengths of one annotation, known to fit its image."""
    if isinstance(segmentation, list):
        return _polygon_runs(segmentation, *size)
    if not isinstance(segmentation, dict) or isinstance(segmentation.get("counts"), str):
        [runs] = checked_runs([segmentation], size)
        return runs
    if list(size) != segmentation.get("size", list(size)):
        raise bad_annotations(f"a mask of {segmentation['size']} on an image of {list(size)} (H, W)")
    try:
        plain = np.asarray(segmentation.get("counts"), dtype=np.int64)
        decode_runs(plain, size)
    except (ValueError, TypeError, OverflowError) as error:
        raise bad_annotations(
            f"run lengths do not fit an image of {size[0]} x {size[1]} ({error})"
        ) from error
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
