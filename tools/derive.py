"""What the programs that make datasets of datasets have in common: flags, and what they print."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from sam_engine.__main__ import called
from sam_engine.dataset.rewrite.parents import Parent, open_parent
from sam_engine.dataset.rewrite.write import Derived

EPILOG = (
    "The result is a dataset of its own, which verify, view, export and training take. Its rows lead back to "
    "their parents (parent_dataset, parent_image_id, annotations.parent_id). Killed anywhere, the same "
    "command goes on. Exit codes: 0 done; 1 a parent is damaged; 2 usage; 4 storage; 5 another program is "
    "writing it."
)


def parser_of(module: str, description: str, *, several: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the flags that all have.

    Args:
        module: Name in ``tools``.
        description: Of the program.
        several: Whether it takes more than one dataset.
    """
    parser = argparse.ArgumentParser(prog=called(f"tools.{module}"), description=description, epilog=EPILOG)
    if several:
        parser.add_argument("datasets", nargs="+", help="finished datasets")
    else:
        parser.add_argument("dataset", help="a finished dataset")
    parser.add_argument("--output", required=True, help="a new directory, or the same as before")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def add_corrections_flag(parser: argparse.ArgumentParser) -> None:
    """Let corrections be ignored."""
    parser.add_argument(
        "--corrections",
        choices=("apply", "ignore"),
        default="apply",
        help="what people corrected (default: apply)",
    )


def open_parents(paths: Sequence[str], corrections: str = "apply") -> list[Parent]:
    """Return the datasets that programs were given; corrections that are ignored are told."""
    parents = [open_parent(path) for path in paths]
    if corrections == "apply":
        return parents
    for parent in parents:
        if parent.corrections:
            sys.stderr.write(f"{parent.path}: corrections of {len(parent.corrections)} images are ignored\n")
    return [open_parent(path, corrections=False) for path in paths]


def tell(made: Sequence[Derived], as_json: bool) -> int:
    """Print what was made; return the exit code."""
    if as_json:
        documents = [asdict(each) for each in made]
        sys.stdout.write(json.dumps(documents if len(documents) > 1 else documents[0]) + "\n")
        return 0
    for each in made:
        line = (
            f"{each.output}: {each.num_images:,} of {each.num_parent_images:,} images, "
            f"{each.num_masks:,} masks (their parents: {each.num_parent_masks:,})"
        )
        if each.num_corrected:
            line += (
                f"; corrections of {each.num_corrected:,} images were applied, "
                f"{each.num_carried:,} acceptances carried over"
            )
        sys.stdout.write(line + "\n")
    return 0
