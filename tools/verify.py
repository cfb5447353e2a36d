"""Hold a dataset against every promise of its format: python -m tools.verify OUT."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from sam_engine.__main__ import called
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.verify import Verification, verify_dataset

from .command import command_line

if TYPE_CHECKING:
    from sam_engine.annotation.repair import Repair


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify; print what is wrong, one problem a line. Return 0 if nothing is, or no longer is, else 1."""
    parser = argparse.ArgumentParser(
        prog=called("tools.verify"),
        description="Check one row per input, schema, checksums, run lengths, areas and boxes of a dataset.",
        epilog="Exit codes: 0 sound, or repaired; 1 not sound; 2 no dataset, or settings that cannot be met; "
        "4 storage; 5 a run is writing it.",
    )
    parser.add_argument("dataset", help="directory that pipelines.auto_annotate wrote")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="make damaged and missing shards anew, with the settings on record; damaged files are moved to "
        "_meta/damaged",
    )
    parser.add_argument("--input", help="with --repair: where the images are now, if they have moved")
    parser.add_argument("--device", help="with --repair: instead of the device on record")
    options = parser.parse_args(arguments)
    if (options.input or options.device) and not options.repair:
        parser.error("--input and --device are for --repair")
    dataset, repair = open_dataset(options.dataset), None
    result = verify_dataset(dataset)
    if options.repair and result.problems:
        # Here and not above: who only looks needs neither torch nor cv2.
        from sam_engine.annotation.repair import repair_dataset

        repair = repair_dataset(dataset, input=options.input, device=options.device)
        result = verify_dataset(open_dataset(options.dataset))
    if options.json:
        document = asdict(result) | ({"repair": asdict(repair)} if repair else {})
        text = json.dumps(document, indent=2)
    else:
        text = describe(result, options.dataset, repair)
    sys.stdout.write(text + "\n")
    return 1 if result.problems else 0


def describe(result: Verification, dataset: str, repair: "Repair | None" = None) -> str:
    """Return what was repaired, the problems and one line about the whole."""
    lines = []
    if repair is not None:
        lines += [f"moved to {name}" for name in repair.set_aside]
        lines += [f"{name}: made anew" for name in repair.recomputed]
        lines += [f"note: {note}" for note in repair.notes]
    verdict = f"{len(result.problems)} problems" if result.problems else "sound"
    counts = f"{result.num_shards} shards, {result.num_images} images, {result.num_masks} masks"
    return "\n".join([*lines, *result.problems, f"{dataset}: {counts}: {verdict}"])


if __name__ == "__main__":
    command_line(main)
