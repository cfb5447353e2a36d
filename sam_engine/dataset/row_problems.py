"""What a row must be, whoever made it: checked before it is published, and wherever it is read."""

import math
from collections.abc import Iterator

from sam_engine.errors import ImageError, RleError
from sam_engine.images.headers import read_header
from sam_engine.ops.rle import area_of, bbox_of, counts_to_runs
from sam_engine.structures import Annotation, ImageRecord, ImageStatus


def record_problems(record: ImageRecord) -> Iterator[str]:
    """Yield what is wrong with a record, one line each; nothing if it is sound.

    Every mask is checked against its run lengths: they fill the image, and area and box follow from them.
    """
    if not 1 <= record.exif_orientation <= 8:
        yield f"exif_orientation is {record.exif_orientation}; 1 to 8 can be"
    has_masks = len(record.annotations) > 0
    if has_masks != (record.status is ImageStatus.OK):
        yield f"status is {record.status}, with {len(record.annotations)} masks"
    if record.image is not None:
        yield from image_problems(record, record.image)
    if (record.width is None) != (record.height is None):
        yield f"width is {record.width}, but height is {record.height}"
    if not record.status.is_failure:
        if record.width is None or record.height is None:
            yield f"status is {record.status}, without a size"
            return
        if record.sha256 is None:
            yield f"status is {record.status}, without a sha256"
        for index, annotation in enumerate(record.annotations):
            for problem in _annotation_problems(annotation, (record.height, record.width)):
                yield f"mask {index}: {problem}"


def image_problems(record: ImageRecord, data: bytes) -> Iterator[str]:
    """Yield what is wrong with a stored image, by its header."""
    if record.status.is_failure:
        yield f"status is {record.status}, with a stored image"
        return
    try:
        header = read_header(data)
    except ImageError as error:
        yield f"its stored image is none: {error}"
        return
    if header.format != "JPEG":
        yield f"its stored image is {header.format}; JPEG is stored"
    if (header.height, header.width) != (record.height, record.width):
        yield f"its stored image is {header.width} x {header.height}, not {record.width} x {record.height}"
    if b"Exif\x00\x00" in data[: data.find(b"\xff\xda")]:
        yield "its stored image carries EXIF"


def _annotation_problems(annotation: Annotation, size: tuple[int, int]) -> Iterator[str]:
    """Yield what is wrong with one mask of an image of ``size`` (H, W)."""
    height, width = size
    if annotation.size != size:
        yield f"size is {list(annotation.size)} in an image of {list(size)}"
        return
    try:
        runs = counts_to_runs(annotation.counts, size)
    except RleError as error:
        yield str(error)
        return
    area = area_of(runs)
    if annotation.area != area:
        yield f"area is {annotation.area}; its mask has {area} pixels"
    if area and annotation.bbox != (box := bbox_of(runs, size)):
        yield f"bbox is {list(annotation.bbox)}; its mask's is {list(box)}"
    for name, (x, y, w, h) in (("bbox", annotation.bbox), ("crop_box", annotation.crop_box)):
        if not (x >= 0 and y >= 0 and w >= 0 and h >= 0 and x + w <= width and y + h <= height):
            yield f"{name} {[x, y, w, h]} leaves the image of {width} x {height} pixels"
    scores = (annotation.predicted_iou, annotation.stability_score)
    if not all(
        math.isfinite(value) for value in (*scores, *(v for point in annotation.point_coords for v in point))
    ):
        yield "a score or a point is not finite"
