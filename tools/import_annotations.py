"""Take corrections back: python -m tools.import_annotations OUT --from FORM PATH --by NAME."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from sam_engine.__main__ import called
from sam_engine.dataset.reader import Dataset, open_dataset
from sam_engine.formats.coco import read_coco
from sam_engine.formats.cvat import read_cvat
from sam_engine.formats.label_studio import read_label_studio
from sam_engine.formats.labelme import read_labelme
from sam_engine.formats.returned import ReturnedImage, highest_id, log_differences

from .command import command_line

DESCRIPTION = """Take what was corrected in another tool back as corrections of a dataset.

What differs from the dataset as it is now (changed, deleted and new masks) becomes lines of its corrections
log; the rows themselves never change. tools.export applies them, and so does training.
"""

Read = Callable[[Dataset, str, Path], list[ReturnedImage]]
"""Takes the dataset, its directory and what came back."""

FORMS: dict[str, Read] = {
    "labelme": lambda dataset, root, path: read_labelme(path),
    "coco": lambda dataset, root, path: read_coco(path, highest_id=highest_id(dataset, root)),
    "label-studio": lambda dataset, root, path: read_label_studio(path),
    "cvat": lambda dataset, root, path: read_cvat(path),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, log, and print what was found."""
    parser = argparse.ArgumentParser(
        prog=called("tools.import_annotations"),
        description=DESCRIPTION,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("dataset", help="directory that was exported")
    parser.add_argument("path", type=Path, help="what came back: the folder of labelme, the file of others")
    parser.add_argument("--from", dest="form", choices=tuple(FORMS), required=True, help="its form")
    parser.add_argument("--by", required=True, help="who corrected: a name, in every line of the log")
    parser.add_argument(
        "--exhaustive", action="store_true", help="these images were looked at as a whole: no mask is missing"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and write nothing")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args(arguments)
    dataset = open_dataset(options.dataset)
    summary = log_differences(
        dataset,
        options.dataset,
        FORMS[options.form](dataset, options.dataset, options.path),
        by=options.by,
        exhaustive=options.exhaustive,
        dry_run=options.dry_run,
    )
    text = (
        f"{summary.num_images} images: {summary.num_kept} masks as they were, "
        f"{summary.num_replaced} changed, {summary.num_deleted} deleted, {summary.num_added} new, "
        f"{summary.num_renamed} called otherwise"
    )
    sys.stdout.write((json.dumps(asdict(summary)) if options.json else text) + "\n")
    return 0


if __name__ == "__main__":
    command_line(main)
