"""An image with its masks, for notebooks: what the viewer shows, without a server."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from sam_engine.dataset.places import Places
from sam_engine.dataset.previews import draw_masks
from sam_engine.dataset.reader import Dataset, open_dataset
from sam_engine.errors import ConfigError
from sam_engine.ops.rle import area_of, bbox_of, counts_to_runs, mask_to_runs, runs_to_counts
from sam_engine.structures import Annotation, ImageRecord, ImageStatus
from sam_engine.web.pictures import Pictures

GeneratedMasks = Sequence[Mapping[str, Any]]
"""What `SamAutomaticMaskGenerator.generate` returns, in any of its output modes."""


def show(
    dataset: Dataset | str | Path | GeneratedMasks,
    image: int | str | ImageRecord | NDArray[np.uint8],
    *,
    images: str | None = None,
) -> Image.Image:
    """Return an image with its masks over it. A notebook displays what its last line gives.

    ::

        sam_engine.show("out", "photo.jpg")
        sam_engine.show(generator.generate(pixels), pixels)

    Args:
        dataset: Or its directory, or what a generator found.
        image: Its id, its file name as the dataset has it, or a record of it; with what a generator found,
            the (H, W, 3) uint8 RGB pixels that it was given.
        images: Where the dataset's input is now, if it has moved: whatever ``input=`` takes.

    Returns:
        RGB, its longer side at most 1024 pixels.

    Raises:
        ConfigError: The dataset has no such image, or masks and image do not go together.
        ImageError: It cannot be had any more, or is not what was annotated.
    """
    if isinstance(dataset, Dataset | str | Path):
        if isinstance(image, np.ndarray):
            raise ConfigError("of a dataset, an image is named by its id or its file name, not by its pixels")
        dataset = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
        record = _record_of(dataset, image)
        return Image.fromarray(draw_masks(Pictures(dataset, images).pixels(record), record))
    if not isinstance(image, np.ndarray):
        raise ConfigError("what a generator found is shown over the pixels that it was given")
    annotations = tuple(_annotation(mask) for mask in dataset)
    if any(mask.size != image.shape[:2] for mask in annotations):
        raise ConfigError(f"the masks are not of an image of {image.shape[1]} x {image.shape[0]} pixels")
    record = ImageRecord(image_id=0, path=b"", status=ImageStatus.OK, annotations=annotations)
    return Image.fromarray(draw_masks(image, record))


def generated_masks(dataset: Dataset | str | Path, image: int | str | ImageRecord) -> list[dict[str, Any]]:
    """Return the masks of an image of a dataset as the generator returns them, as (H, W) bool arrays.

    So that what takes ``SamAutomaticMaskGenerator.generate`` takes datasets, too::

        supervision.Detections.from_sam(sam_engine.generated_masks("out", "photo.jpg"))

    Raises:
        ConfigError: The dataset has no such image.
    """
    record = _record_of(dataset if isinstance(dataset, Dataset) else open_dataset(dataset), image)
    return [
        {
            "segmentation": np.ascontiguousarray(mask.mask()),
            "area": mask.area,
            "bbox": list(mask.bbox),
            "predicted_iou": mask.predicted_iou,
            "point_coords": [list(point) for point in mask.point_coords],
            "stability_score": mask.stability_score,
            "crop_box": list(mask.crop_box),
        }
        for mask in record.annotations
    ]


def _annotation(mask: Mapping[str, Any]) -> Annotation:
    """Return a generator's mask as a row has it; `RleError` where its run lengths are malformed."""
    segmentation = mask["segmentation"]
    if isinstance(segmentation, np.ndarray):
        size, runs = (segmentation.shape[0], segmentation.shape[1]), mask_to_runs(segmentation)
    else:
        height, width = segmentation["size"]
        size, counts = (height, width), segmentation["counts"]
        is_text = isinstance(counts, str | bytes)
        runs = counts_to_runs(counts, size) if is_text else np.asarray(counts, np.int64)
    area = area_of(runs)
    x, y, w, h = bbox_of(runs, size) if area else (0, 0, 0, 0)
    return Annotation(
        size=size,
        counts=runs_to_counts(runs),
        bbox=(float(x), float(y), float(w), float(h)),
        area=area,
        predicted_iou=float(mask.get("predicted_iou", 1.0)),
        stability_score=float(mask.get("stability_score", 1.0)),
        crop_box=(0.0, 0.0, float(size[1]), float(size[0])),
        point_coords=(),
    )


def _record_of(dataset: Dataset, image: int | str | ImageRecord) -> ImageRecord:
    """Return an image's row.

    Raises:
        ConfigError: There is none.
    """
    if isinstance(image, str):
        image = _id_of(dataset, image)
    record = Places(dataset).find(image) if isinstance(image, int) else image
    if record is None:
        raise ConfigError(f"{dataset.store.describe()} has no image {image}")
    return record


def _id_of(dataset: Dataset, name: str) -> int:
    """Return the id of the image of a name.

    Raises:
        ConfigError: There is none.
    """
    for table in dataset.tables(["image_id", "file_name"]):
        row = pc.index(table["file_name"].cast("string"), name).as_py()
        if row >= 0:
            return int(table["image_id"][row].as_py())
    raise ConfigError(f"{dataset.store.describe()} has no image {name!r}; names are relative to its input")
