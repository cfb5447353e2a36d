"""A table of where images are from and under which terms, for formats whose own files have no place for it.

It is a CSV file that ``image_table=`` takes, so that a run over the copies knows of them what this one does.
"""

import contextlib
import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from sam_engine.files import new_file
from sam_engine.formats.each_image import LINEAGE_FIELDS, copy_name, origin_of
from sam_engine.structures import ImageRecord

NAME = "origins.csv"
_COLUMNS = (
    *("file_name", "original_name", "licence", "attribution", "source_url", "source_key", "frame_time_s"),
    *LINEAGE_FIELDS,
)


@contextlib.contextmanager
def new_origins(folder: Path) -> Iterator[Callable[[ImageRecord], None]]:
    """Yield a function that adds an image to ``origins.csv`` of a folder. What is unknown is empty."""
    with new_file(folder / NAME) as file, io.TextIOWrapper(file, "utf-8", newline="") as text:
        table = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        table.writeheader()
        yield lambda record: table.writerow({"file_name": copy_name(record.image_id), **origin_of(record)})
