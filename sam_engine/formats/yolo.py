"""YOLO's segmentation labels: polygons, one text file for each image, and ``data.yaml``.

The format has polygons only: holes are lost, parts of a mask are joined by a line there and back, outlines
run through the middles of pixels. How much that costs is measured and said: the mean IoU of what is written.

Source: docs of Ultralytics, "Instance Segmentation Datasets Overview": ``<class> x1 y1 x2 y2 ...``, each
coordinate relative to the side of the image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sam_engine.dataset.corrections import Correction
from sam_engine.dataset.originals import Originals
from sam_engine.dataset.reader import Dataset
from sam_engine.files import refuse_used, write_atomically, writing_to
from sam_engine.formats.each_image import ImagesToWrite
from sam_engine.formats.polygons import MIN_CORNERS, PolygonCount, PolygonLoss, drawn_iou, polygon_of
from sam_engine.formats.source import ExportSummary
from sam_engine.ops.rle import decode_counts

DATA = """# Ultralytics YOLO, task segment. One class: Segment Anything finds things without naming them.
path: .
train: images
val: images
names:
  0: object
"""


def export_yolo(
    dataset: Dataset,
    output: Path,
    *,
    originals: Originals | None = None,
    corrections: Mapping[int, Sequence[Correction]] | None = None,
) -> tuple[ExportSummary, PolygonLoss]:
    """Write ``labels/<image id>.txt``, ``images/<image id>.jpg`` where it can be had, and ``data.yaml``.

    Args:
        dataset: What to export.
        output: Folder for the files; it must be new or empty.
        originals: Where to take the images from; None writes labels only.
        corrections: By image id, applied to what is written.

    Raises:
        ConfigError: ``output`` is in use.
        ShardError: The dataset is damaged.
        StorageError: The output cannot be written.
    """
    refuse_used(output)
    each = ImagesToWrite(dataset, originals=originals, corrections=corrections)
    count = PolygonCount()
    with writing_to(output):
        write_atomically(output / "data.yaml", DATA)
        for record, masks, jpeg in each.images():
            name = f"{record.image_id:012d}"
            if jpeg is not None:
                write_atomically(output / "images" / f"{name}.jpg", jpeg)
            lines = []
            for _, annotation in masks:
                mask = decode_counts(annotation.counts, annotation.size)
                polygon = polygon_of(mask)
                if len(polygon) < MIN_CORNERS:
                    count.num_lost += 1
                    continue
                count.ious.append(drawn_iou(mask, polygon))
                relative = polygon / np.array(mask.shape[::-1])
                lines.append("0 " + " ".join(f"{value:.6f}" for value in relative.ravel().tolist()))
            write_atomically(output / "labels" / f"{name}.txt", "".join(line + "\n" for line in lines))
    return each.summary(), count.loss()
