"""FiftyOne's layout of COCO: ``data/`` with the images, and ``labels.json``.

``fo.Dataset.from_dir(FOLDER, fo.types.COCODetectionDataset, label_types="segmentations")`` reads it, masks
pixel by pixel, for boxes here count pixels (it cuts each mask out by its box). The predicted IoU is the
confidence; scores, crops and points are attributes of each detection, ids with ``include_id=True``, and
licences come with ``include_license=True``.

Source: FiftyOne 1.22, ``fiftyone/utils/coco.py``.
"""

from pathlib import Path

from sam_engine.files import new_file
from sam_engine.formats.coco_export import CocoForm, write_instances
from sam_engine.formats.each_image import ImagesToWrite

FORM = CocoForm(scored=True)


def write_fiftyone(images: ImagesToWrite, folder: Path) -> None:
    """Write ``labels.json``, and ``data/<image id>.jpg`` where they can be had."""
    copies = None if images.originals is None else folder / "data"
    with new_file(folder / "labels.json") as file:
        write_instances(images, file, copies, FORM)
