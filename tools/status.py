"""How far a dataset is: python -m tools.status OUT."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

from sam_engine.__main__ import called
from sam_engine.annotation.status import Status, status_of
from sam_engine.dataset.reader import open_dataset

from .command import command_line

DESCRIPTION = """Say how far a dataset is, from its files alone, also while it is being made.

Shards, images and masks; how fast the drivers are together, by the times of the shards of the last hour of
work; the slowest workers, as drivers write every half minute; how long the rest takes at that; failures by
reason. Exit code 0, finished or not.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print once, or again and again until it is finished."""
    parser = argparse.ArgumentParser(
        prog=called("tools.status"), description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dataset", help="directory that pipelines.auto_annotate writes or wrote")
    parser.add_argument("--watch", nargs="?", type=float, const=10.0, metavar="SECONDS", help="say it again")
    parser.add_argument("--json", action="store_true", help="an object a line")
    options = parser.parse_args(arguments)
    while True:
        status = status_of(open_dataset(options.dataset), time.time())
        sys.stdout.write((json.dumps(asdict(status)) if options.json else describe(status)) + "\n")
        sys.stdout.flush()
        if options.watch is None or status.is_finished:
            return 0
        time.sleep(options.watch)


def describe(status: Status) -> str:
    """Return the lines for a person."""
    failures = ", ".join(f"{count:,} {reason}" for reason, count in status.failures.items())
    lines = [
        f"{status.output}: {'finished' if status.is_finished else 'not finished'}",
        f"shards    {status.num_shards:,} of {status.num_shards_planned:,}",
        f"images    {status.num_images:,} of {status.num_images_planned:,}",
        f"masks     {status.num_masks:,}",
        f"failures  {sum(status.failures.values()):,}" + (f" ({failures})" if failures else ""),
    ]
    if status.images_per_second is not None:
        lines.append(
            f"speed     {status.images_per_second:.2f} images/s, {status.masks_per_second:.1f} masks/s"
        )
    several = status.slowest if status.num_workers > 1 else ()
    lines += [
        f"slowest   {each.images_per_second:.2f} images/s, {each.worker} on {each.device}" for each in several
    ]
    if several:
        lines[-1] += f" (median of {status.num_workers:,} workers: {status.median_images_per_second:.2f})"
    if status.seconds_since_last is not None and not status.is_finished:
        left = "not known yet" if status.seconds_left is None else _clock(status.seconds_left)
        age = _clock(status.seconds_since_last)
        lines.append(f"left      {left}, if drivers are at work: the last shard is {age} old")
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    """Return 1:02:03."""
    return str(timedelta(seconds=round(seconds)))


if __name__ == "__main__":
    command_line(main)
