"""Compare two datasets of the same images mask by mask: python -m tools.compare_runs FIRST SECOND."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields

from sam_engine.__main__ import called
from sam_engine.config import AmgConfig
from sam_engine.dataset.borderline import BORDERLINE
from sam_engine.dataset.compare import SAME_IOU, Comparison, compare_datasets
from sam_engine.dataset.reader import Dataset, open_dataset

from .command import command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print. Return 1 if fewer masks than ``--require`` have a counterpart, else 0."""
    parser = argparse.ArgumentParser(
        prog=called("tools.compare_runs"),
        description="Match the masks of two datasets one to one and account for every difference.",
    )
    parser.add_argument("first", help="directory of a dataset, the reference")
    parser.add_argument("second", help="directory of a dataset of the same images")
    parser.add_argument(
        "--require",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="exit with 1 if a smaller share of masks has a counterpart at IoU >= 0.999",
    )
    parser.add_argument(
        "--same-iou",
        type=float,
        default=SAME_IOU,
        metavar="IOU",
        help=f"account for masks without a counterpart of this IoU (default {SAME_IOU})",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=BORDERLINE,
        metavar="T",
        help=f"a score this near to a threshold is borderline (default {BORDERLINE})",
    )
    parser.add_argument(
        "--explained",
        action="store_true",
        help="exit with 1 if a mask has no counterpart and is not borderline",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    first, second = open_dataset(options.first), open_dataset(options.second)
    comparisons = compare_datasets(
        first.records(),
        second.records(),
        amg_settings(first),
        same_iou=options.same_iou,
        tolerance=options.tolerance,
    )
    total = sum((comparison for _, comparison in comparisons), Comparison())
    if options.json:
        text = json.dumps({**asdict(total), "shares": total.shares}, indent=2)
    else:
        text = describe(total)
    sys.stdout.write(text + "\n")
    too_few = total.shares["iou_0.999"] < options.require
    return int(too_few or (options.explained and total.num_unexplained > 0))


def amg_settings(dataset: Dataset) -> AmgConfig:
    """Return the generator's settings of a run: its thresholds decide what is borderline."""
    settings = dataset.run_info.get("settings", {})
    names = [field.name for field in fields(AmgConfig)]
    return AmgConfig(**{name: settings[f"amg.{name}"] for name in names if f"amg.{name}" in settings})


def describe(total: Comparison) -> str:
    """Return the comparison as lines."""
    shares = total.shares
    lines = [
        f"images           {total.num_images:,}, of which {total.num_images_with_other_count:,} with another "
        f"number of masks and {total.num_images_with_other_status:,} with another status",
        f"masks            {total.num_first:,} and {total.num_second:,}",
        f"identical        {shares['identical']:.4%}",
        f"IoU >= 0.999     {shares['iou_0.999']:.4%}",
        f"IoU >= 0.99      {shares['iou_0.99']:.4%}",
        f"no counterpart   {total.num_different:,}, of which {total.num_unexplained:,} unexplained",
        *(f"                 {count:,}: {reason}" for reason, count in total.num_by_reason.most_common()),
        f"largest error    predicted IoU {total.max_predicted_iou_error:.2e}, "
        f"stability {total.max_stability_error:.2e}",
    ]
    lines += [
        f"unexplained      image {mask.image_id}: mask {mask.mask} of dataset {mask.dataset}, "
        + (f"IoU {mask.iou:.4f} with the nearest" if mask.iou else "which has nothing like it in the other")
        for mask in total.unexplained
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(main)
