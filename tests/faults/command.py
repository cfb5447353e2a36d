"""The command line of campaigns."""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from .result import Order, Result, timed

Campaign = Callable[[Path, Order], Result]
"""Takes a work folder and an order."""


def run_command(
    prog: str,
    description: str | None,
    campaigns: Mapping[str, tuple[str, Campaign]],
    *,
    n_help: str,
    takes_images: bool = False,
) -> int:
    """Run the campaigns asked for on the command line, and print a line for each.

    Args:
        prog: How the program is called.
        description: What it does.
        campaigns: By name, what each does, and the campaign.
        n_help: What ``--n`` limits.
        takes_images: Whether there is a choice of how many images are in each run.

    Returns:
        1 if a promise was broken, else 0.
    """
    width = max(map(len, campaigns)) + 2
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog="\n".join(f"{name:{width}}{text}" for name, (text, _) in campaigns.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("campaigns", nargs="+", choices=[*campaigns, "all"], metavar="CAMPAIGN")
    parser.add_argument("--n", type=int, help=n_help)
    if takes_images:
        images = Order().images
        parser.add_argument("--images", type=int, default=images, help="in each run; two make a shard")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--work", help="folder for temporary files; one on a RAM disk is faster")
    options = parser.parse_args()
    order = Order(limit=options.n, seed=options.seed)
    if takes_images:
        order = replace(order, images=options.images)
    results = []
    for name in campaigns if "all" in options.campaigns else options.campaigns:
        with tempfile.TemporaryDirectory(dir=options.work) as work:
            results.append(timed(campaigns[name][1], Path(work).resolve(), order))
        print(results[-1], flush=True)
    if options.json is not None:
        document = {"seed": options.seed, "campaigns": [vars(result) for result in results]}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if any(result.violations for result in results) else 0
