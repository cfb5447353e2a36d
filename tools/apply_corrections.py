"""Make a dataset as people left it: python -m tools.apply_corrections OUT --output CORRECTED."""

from collections.abc import Sequence

from sam_engine.dataset.rewrite.operations import apply_corrections_of

from .command import command_line
from .derive import open_parents, parser_of, tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Apply; print what there is."""
    description = (
        "Make a dataset whose rows are what people left of another's. What they accepted or drew is accepted "
        "in the corrections of the new one."
    )
    options = parser_of("apply_corrections", description).parse_args(arguments)
    [parent] = open_parents([options.dataset])
    return tell([apply_corrections_of(parent, options.output)], options.json)


if __name__ == "__main__":
    command_line(main)
