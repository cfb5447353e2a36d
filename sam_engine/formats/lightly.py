"""What LightlyStudio reads: ``images/`` and a COCO file with uncompressed run lengths, all of them crowds.

Its reader, labelformat, takes a mask for a polygon unless ``iscrowd`` is 1, and no compressed counts::

    dataset = lightly_studio.ImageDataset.create()
    dataset.add_samples_from_coco(
        annotations_json="FOLDER/annotations.json",
        images_path="FOLDER/images",
        annotation_type=lightly_studio.AnnotationType.SEGMENTATION_MASK,
    )

Source: LightlyStudio 1.2, ``core/image/image_dataset.py``; labelformat 0.1.17, ``formats/coco.py``.
"""

from pathlib import Path

from sam_engine.files import new_file
from sam_engine.formats.coco_export import CocoForm, write_instances
from sam_engine.formats.each_image import ImagesToWrite

FORM = CocoForm(segmentation="uncompressed", iscrowd=True)


def write_lightly(images: ImagesToWrite, folder: Path) -> None:
    """Write ``annotations.json``, and ``images/<image id>.jpg`` where they can be had."""
    copies = None if images.originals is None else folder / "images"
    with new_file(folder / "annotations.json") as file:
        write_instances(images, file, copies, FORM)
