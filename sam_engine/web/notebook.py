"""An image with its masks, for notebooks: what the viewer shows, without a server."""

from pathlib import Path

import pyarrow.compute as pc
from PIL import Image

from sam_engine.dataset.places import Places
from sam_engine.dataset.previews import draw_masks
from sam_engine.dataset.reader import Dataset, open_dataset
from sam_engine.errors import ConfigError
from sam_engine.structures import ImageRecord
from sam_engine.web.pictures import Pictures


def show(
    dataset: Dataset | str | Path, image: int | str | ImageRecord, *, images: str | None = None
) -> Image.Image:
    """Return an image of a dataset with its masks over it. A notebook displays what its last line gives.

    ::

        sam_engine.show("out", "photo.jpg")

    Args:
        dataset: Or its directory.
        image: Its id, its file name as the dataset has it, or a record of it.
        images: Where the dataset's input is now, if it has moved: whatever ``input=`` takes.

    Returns:
        RGB, its longer side at most 1024 pixels.

    Raises:
        ConfigError: The dataset has no such image.
        ImageError: It cannot be had any more, or is not what was annotated.
    """
    dataset = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    if isinstance(image, str):
        image = _id_of(dataset, image)
    record = Places(dataset).find(image) if isinstance(image, int) else image
    if record is None:
        raise ConfigError(f"{dataset.store.describe()} has no image {image}")
    return Image.fromarray(draw_masks(Pictures(dataset, images).pixels(record), record))


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
