"""Hold a dataset against every promise of its format: python -m tools.verify OUT."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.verify import Verification, verify_dataset
from tools.command import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify; print what is wrong, one problem a line. Return 0 if nothing is, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.verify",
        description="Check one row per input, schema, checksums, run lengths, areas and boxes of a dataset.",
    )
    parser.add_argument("dataset", help="directory that pipelines.auto_annotate wrote")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    result = verify_dataset(open_dataset(options.dataset))
    text = json.dumps(asdict(result), indent=2) if options.json else describe(result, options.dataset)
    sys.stdout.write(text + "\n")
    return 1 if result.problems else 0


def describe(result: Verification, dataset: str) -> str:
    """Return the problems and one line about the whole."""
    verdict = f"{len(result.problems)} problems" if result.problems else "sound"
    counts = f"{result.num_shards} shards, {result.num_images} images, {result.num_masks} masks"
    return "\n".join([*result.problems, f"{dataset}: {counts}: {verdict}"])


if __name__ == "__main__":
    sys.exit(run(main))
