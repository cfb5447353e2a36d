"""Keep some masks and images of a dataset: python -m tools.filter OUT --min-area 100 --output FILTERED."""

from collections.abc import Sequence
from dataclasses import fields

from sam_engine.dataset.rewrite.operations import filter_dataset
from sam_engine.dataset.rewrite.rules import Rules

from .command import command_line
from .derive import add_corrections_flag, open_parents, parser_of, tell

MASK_RULES = {
    "area": (int, "pixels of a mask"),
    "share": (float, "of a mask's area in its image, 0 to 1"),
    "predicted-iou": (float, "of a mask"),
    "stability-score": (float, "of a mask"),
    "masks": (int, "masks of an image that are left"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Filter; print what is left."""
    description = (
        "Keep the masks and the images that all rules match; both ends of a range belong to it. Images that "
        "lose all masks stay, as ok_empty, unless --min-masks 1 or --status ok leaves them out."
    )
    parser = parser_of("filter", description)
    for name, (kind, meaning) in MASK_RULES.items():
        parser.add_argument(f"--min-{name}", type=kind, metavar="N", help=meaning)
        parser.add_argument(f"--max-{name}", type=kind, metavar="N", help="likewise")
    parser.add_argument("--label", dest="labels", action="append", help="of a mask; repeat for several")
    parser.add_argument(
        "--status", dest="statuses", action="append", help="of an image, with the masks that are left; repeat"
    )
    parser.add_argument(
        "--name", dest="names", action="append", metavar="GLOB", help="pattern of file_name; repeat"
    )
    add_corrections_flag(parser)
    options = parser.parse_args(arguments)
    rules = Rules(**{field.name: getattr(options, field.name) for field in fields(Rules)})
    [parent] = open_parents([options.dataset], options.corrections)
    return tell([filter_dataset(parent, options.output, rules)], options.json)


if __name__ == "__main__":
    command_line(main)
