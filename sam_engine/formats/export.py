"""Which formats a dataset is written in: one table, and one way to all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam_engine.dataset.corrections import Correction
from sam_engine.dataset.originals import Originals
from sam_engine.dataset.reader import Dataset
from sam_engine.errors import ConfigError
from sam_engine.files import new_folder, refuse_used, writing_to
from sam_engine.formats.coco_export import write_coco
from sam_engine.formats.cvat import write_cvat
from sam_engine.formats.each_image import ExportSummary, ImagesToWrite
from sam_engine.formats.fiftyone import write_fiftyone
from sam_engine.formats.huggingface import write_huggingface
from sam_engine.formats.label_studio import write_label_studio
from sam_engine.formats.labelme import write_labelme
from sam_engine.formats.lightly import write_lightly
from sam_engine.formats.polygons import PolygonLoss
from sam_engine.formats.sa1b import write_sa1b
from sam_engine.formats.webdataset import write_webdataset
from sam_engine.formats.yolo import write_yolo


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """One row of the table."""

    about: str
    """What is written, in a line."""
    write: Callable[..., PolygonLoss | None]
    """Takes the images, where to write them, and its options; returns what polygons lost, if it has some."""
    options: tuple[str, ...] = ()
    """Keywords of its own."""
    is_file: bool = False
    """It is given a file's name, and not that of an empty folder, which is there when all is written."""
    copies_on_demand: bool = False
    """It is as good without copies of the images."""
    comes_back: bool = False
    """`sam_engine.formats.returned` makes corrections of it."""


EXPORTS: Mapping[str, ExportFormat] = {
    "sa1b": ExportFormat(
        about="sa_<id>.json (and sa_<id>.jpg, upright, where the images can be had) in a folder, or in tars",
        write=write_sa1b,
        options=("tar",),
    ),
    "coco": ExportFormat(
        about="one COCO instances file, masks as RLE or polygons; with --images upright copies beside it",
        write=write_coco,
        options=("rle", "iscrowd", "polygons"),
        is_file=True,
        copies_on_demand=True,
        comes_back=True,
    ),
    "labelme": ExportFormat(
        about="one .json (and .jpg) an image, masks as they are", write=write_labelme, comes_back=True
    ),
    "label-studio": ExportFormat(
        about="tasks.json with brush masks, label_config.xml and images/",
        write=write_label_studio,
        comes_back=True,
    ),
    "cvat": ExportFormat(
        about="annotations.xml of CVAT for images 1.1, labels.json, images/ and origins.csv",
        write=write_cvat,
        comes_back=True,
    ),
    "fiftyone": ExportFormat(
        about="data/ and labels.json, as FiftyOne reads COCO with masks", write=write_fiftyone
    ),
    "lightly": ExportFormat(
        about="images/ and annotations.json, as LightlyStudio reads masks", write=write_lightly
    ),
    "webdataset": ExportFormat(
        about="tars of <id>.jpg and <id>.json (SA-1B's), one a shard", write=write_webdataset
    ),
    "huggingface": ExportFormat(
        about="data/train-*.parquet with the images inside, and a dataset card", write=write_huggingface
    ),
    "yolo": ExportFormat(
        about="labels/, images/, data.yaml, origins.csv of YOLO's segmentation: polygons, whose loss is said",
        write=write_yolo,
    ),
}


def export_dataset(
    dataset: Dataset,
    output: Path,
    *,
    to: str,
    originals: Originals | None = None,
    corrections: Mapping[int, Sequence[Correction]] | None = None,
    **options: Any,
) -> ExportSummary:
    """Write a dataset for other tools. The output appears when it is whole.

    Images that failed are left out. Copies of images are upright JPEG without metadata.

    Args:
        dataset: What to export. One row group is in memory at a time.
        output: What the format writes: a new file, or a new or empty folder.
        to: One of `EXPORTS`.
        originals: Where to take the images from; None writes annotations only.
        corrections: By image id, applied to what is written.
        options: Of the format: ``tar`` of sa1b; ``rle``, ``iscrowd`` and ``polygons`` of coco.

    Raises:
        ConfigError: There is no such format, it has no such option, or ``output`` is in use.
        InputError: There are corrections of an image that was not annotated, or that do not fit theirs.
        ShardError: The dataset is damaged.
        StorageError: The output cannot be written.
    """
    if to not in EXPORTS:
        raise ConfigError(f"there is no format {to!r}; choose from {', '.join(EXPORTS)}")
    form = EXPORTS[to]
    for name in sorted(options.keys() - set(form.options)):
        takers = [each for each in EXPORTS if name in EXPORTS[each].options]
        raise ConfigError(f"{name} goes with {', '.join(takers) or 'no format'}, and not with {to}")
    refuse_used(output)
    images = ImagesToWrite(dataset, originals=originals, corrections=corrections)
    with writing_to(output):
        if form.is_file:
            loss = form.write(images, output, **options)
        else:
            with new_folder(output) as folder:
                loss = form.write(images, folder, **options)
    return images.summary(loss)
