"""YOLO's segmentation labels: polygons, one text file for each image, and ``data.yaml``.

The format has polygons only: holes are lost, parts of a mask are joined by a line there and back, outlines
run through the middles of pixels. How much that costs is measured and said: the mean IoU of what is written.

Source: docs of Ultralytics, "Instance Segmentation Datasets Overview": ``<class> x1 y1 x2 y2 ...``, each
coordinate relative to the side of the image.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sam_engine.files import write_atomically
from sam_engine.formats.each_image import ImagesToWrite, copy_name, name_of
from sam_engine.formats.origins_table import new_origins
from sam_engine.formats.polygons import MIN_CORNERS, PolygonCount, PolygonLoss, drawn_iou, polygon_of


def write_yolo(images: ImagesToWrite, folder: Path) -> PolygonLoss:
    """Write ``labels/<image id>.txt``, ``images/<image id>.jpg``, ``data.yaml`` and ``origins.csv``."""
    count = PolygonCount()
    numbers = {name: number for number, name in enumerate(images.names)}
    write_atomically(folder / "data.yaml", _data(images.names))
    with new_origins(folder) as add_origin:
        for record, masks, jpeg in images.images():
            name = copy_name(record.image_id)
            if jpeg is not None:
                write_atomically(folder / "images" / name, jpeg)
            lines = []
            for annotation in masks:
                mask = annotation.mask()
                polygon = polygon_of(mask)
                if len(polygon) < MIN_CORNERS:
                    count.num_lost += 1
                    continue
                count.ious.append(drawn_iou(mask, polygon))
                relative = polygon / np.array(mask.shape[::-1])
                numbers_of_line = [f"{value:.6f}" for value in relative.ravel().tolist()]
                lines.append(" ".join([str(numbers[name_of(annotation.label)]), *numbers_of_line]))
            labels = (folder / "labels" / name).with_suffix(".txt")
            write_atomically(labels, "".join(line + "\n" for line in lines))
            add_origin(record)
    return count.loss()


def _data(names: Sequence[str]) -> str:
    """Return ``data.yaml``. A text of JSON is one of YAML, too."""
    classes = "".join(
        f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for number, name in enumerate(names)
    )
    return f"# Ultralytics YOLO, task segment.\npath: .\ntrain: images\nval: images\nnames:\n{classes}"
