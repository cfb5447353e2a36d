"""From what became of an image to its row. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from sam_engine.amg.found_mask import Box, FoundMask
from sam_engine.annotation.leases import Verdict
from sam_engine.errors import ImageError
from sam_engine.images.decode import DecodedImage
from sam_engine.ops.rle import runs_to_counts
from sam_engine.structures import Annotation, ImageRecord, ImageStatus, ManifestEntry, Origin, Xywh


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedImage:
    """What reading and decoding one file gave."""

    sha256: str | None
    """Of the file's bytes; None if they could not be had."""
    image: DecodedImage | ImageError
    copy: bytes | None = None
    """The JPEG that its row holds, where images are stored."""


class _Size(TypedDict):
    """What a record knows of an image once it is decoded."""

    width: int
    height: int
    exif_orientation: int


def _size(image: DecodedImage) -> _Size:
    height, width = image.pixels.shape[:2]
    return {"width": width, "height": height, "exif_orientation": image.exif_orientation}


def _origin(entry: ManifestEntry) -> dict[str, Any]:
    """Return what a record says of where the image comes from."""
    return {field.name: getattr(entry.origin, field.name) for field in fields(Origin)}


def annotation_of(mask: FoundMask, size: tuple[int, int]) -> Annotation:
    """Return a mask of an image of (H, W) pixels as a row's annotation."""
    return Annotation(
        size=size,
        counts=runs_to_counts(mask.runs),
        bbox=_floats(mask.bbox_xywh),
        area=mask.area,
        predicted_iou=mask.predicted_iou,
        stability_score=mask.stability_score,
        crop_box=_floats(mask.crop_box_xywh),
        point_coords=mask.point_coords,
    )


def _floats(box_xywh: Box) -> Xywh:
    x, y, width, height = box_xywh
    return float(x), float(y), float(width), float(height)


def annotated(entry: ManifestEntry, loaded: LoadedImage, found: Sequence[FoundMask]) -> ImageRecord:
    """Return the row of an image with its masks."""
    decoded = loaded.image
    assert isinstance(decoded, DecodedImage)
    height, width = decoded.pixels.shape[:2]
    annotations = tuple(annotation_of(mask, (height, width)) for mask in found)
    return ImageRecord(
        image_id=entry.image_id,
        path=entry.path,
        status=ImageStatus.OK if annotations else ImageStatus.OK_EMPTY,
        sha256=loaded.sha256,
        error=decoded.note,
        annotations=annotations,
        image=loaded.copy,
        **_size(decoded),
        **_origin(entry),
    )


def without_masks(entry: ManifestEntry, loaded: LoadedImage, error: ImageError) -> ImageRecord:
    """Return the row of an image that was decoded, but has no masks for a reason."""
    assert isinstance(loaded.image, DecodedImage)
    return replace(unusable(entry, loaded.sha256, error), **_size(loaded.image))


def unusable(entry: ManifestEntry, sha256: str | None, error: ImageError) -> ImageRecord:
    """Return the row of an image that cannot be used."""
    return ImageRecord(
        image_id=entry.image_id,
        path=entry.path,
        status=error.status,
        sha256=sha256,
        error=str(error),
        **_origin(entry),
    )


def given_up(entry: ManifestEntry, verdict: Verdict) -> ImageRecord:
    """Return the row of an image that is not touched again."""
    return ImageRecord(
        image_id=entry.image_id,
        path=entry.path,
        status=verdict.status,
        error=verdict.reason,
        **_origin(entry),
    )
