"""Make one dataset of several: python -m tools.merge A B --output BOTH."""

from collections.abc import Sequence

from sam_engine.dataset.rewrite.operations import merge_datasets

from .command import command_line
from .derive import add_corrections_flag, open_parents, parser_of, tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Merge; print what there is."""
    description = (
        "Make one dataset of several. Paths stay if all are of one input and none is in two datasets; "
        "otherwise each gets its dataset's name before it, as a folder."
    )
    parser = parser_of("merge", description, several=True)
    parser.add_argument(
        "--names", help="of the datasets, with commas between; default: those of their directories"
    )
    add_corrections_flag(parser)
    options = parser.parse_args(arguments)
    names = options.names.split(",") if options.names else ()
    parents = open_parents(options.datasets, options.corrections)
    return tell([merge_datasets(parents, options.output, names=names)], options.json)


if __name__ == "__main__":
    command_line(main)
