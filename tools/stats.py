"""Count what the masks of a dataset are like: python -m tools.stats OUT [--html REPORT.html]."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sam_engine.__main__ import called
from sam_engine.dataset.correction_log import read_corrections
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.statistics_page import dataset_statistics, statistics_page
from sam_engine.files import refuse_used, write_atomically, writing_to
from sam_engine.inputs.source import short_name
from sam_engine.storage.place import absolute

from .command import command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Count; print the numbers."""
    parser = argparse.ArgumentParser(
        prog=called("tools.stats"),
        description="Images by status, masks by number, size, scores and place; also of a half-made dataset.",
        epilog="Exit codes: 0 done; 1 a shard is damaged; 2 no dataset, or the report exists; 4 storage.",
    )
    parser.add_argument("dataset", help="directory of a dataset")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots; a new file")
    parser.add_argument("--json", action="store_true", help="print all bins as JSON")
    options = parser.parse_args(arguments)
    if options.html is not None:
        refuse_used(options.html)
    dataset = open_dataset(options.dataset)
    found = dataset_statistics(dataset)
    if corrections := read_corrections(options.dataset):
        sys.stderr.write(
            f"corrections of {len(corrections)} images are not counted; tools.apply_corrections makes a "
            "dataset that has them\n"
        )
    if options.html is not None:
        name = short_name(absolute(options.dataset), keep_extension=True)
        with writing_to(options.html):
            write_atomically(options.html, statistics_page(name, found))
    if options.json:
        text = json.dumps(found)
    else:
        statuses = ", ".join(f"{count:,} {status}" for status, count in found["statuses"].items())
        masks = f"{found['num_masks']:,} masks"
        text = f"{options.dataset}: {found['num_images']:,} images ({statuses}), {masks}"
        if options.html is not None:
            text += f"\nreport: {options.html}"
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    command_line(main)
