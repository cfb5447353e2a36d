"""Compare two datasets of the same images mask by mask: python -m tools.compare_runs FIRST SECOND."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields

from sam_engine.config import AmgConfig
from sam_engine.dataset.compare import Comparison, compare_datasets
from sam_engine.dataset.reader import Dataset, open_dataset
from tools.command import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print. Return 1 if fewer masks than ``--require`` have a counterpart, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_runs",
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
    parser.add_argument("--worst", type=int, default=5, metavar="N", help="images to name (default 5)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    first, second = open_dataset(options.first), open_dataset(options.second)
    total, by_image = Comparison(), []
    for image_id, comparison in compare_datasets(first.records(), second.records(), amg_settings(first)):
        total += comparison
        if comparison.num_different:
            by_image.append((comparison.num_different, image_id))
    worst = [
        image_id for _, image_id in sorted(by_image, key=lambda pair: (-pair[0], pair[1]))[: options.worst]
    ]
    if options.json:
        text = json.dumps({**asdict(total), "shares": total.shares, "worst_images": worst}, indent=2)
    else:
        text = describe(total, worst)
    sys.stdout.write(text + "\n")
    return int(total.shares["iou_0.999"] < options.require)


def amg_settings(dataset: Dataset) -> AmgConfig:
    """Return the generator's settings of a run: its thresholds decide what is borderline."""
    settings = dataset.run_info.get("settings", {})
    names = [field.name for field in fields(AmgConfig)]
    return AmgConfig(**{name: settings[f"amg.{name}"] for name in names if f"amg.{name}" in settings})


def describe(total: Comparison, worst: Sequence[int]) -> str:
    """Return the comparison as lines."""
    shares = total.shares
    lines = [
        f"images           {total.num_images:,}, of which {total.num_images_with_other_count:,} with another "
        f"number of masks and {total.num_images_with_other_status:,} with another status",
        f"masks            {total.num_first:,} and {total.num_second:,}",
        f"identical        {shares['identical']:.4%}",
        f"IoU >= 0.999     {shares['iou_0.999']:.4%}",
        f"IoU >= 0.99      {shares['iou_0.99']:.4%}",
        f"no counterpart   {total.num_different:,}, of which borderline {total.num_borderline:,}",
        f"largest error    predicted IoU {total.max_predicted_iou_error:.2e}, "
        f"stability {total.max_stability_error:.2e}",
    ]
    if worst:
        lines.append(f"image ids        {', '.join(map(str, worst))} differ most")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main))
