"""Leave copies of files out of a dataset: python -m tools.dedupe OUT --output UNIQUE."""

from collections.abc import Sequence

from sam_engine.dataset.rewrite.operations import dedupe_dataset

from .command import command_line
from .derive import add_corrections_flag, open_parents, parser_of, tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Dedupe; print what is left."""
    description = (
        "Keep one image of those whose files have the same bytes (sha256): the first that was annotated, or "
        "the first. Images that could not be read have no sha256, and stay."
    )
    parser = parser_of("dedupe", description)
    add_corrections_flag(parser)
    options = parser.parse_args(arguments)
    [parent] = open_parents([options.dataset], options.corrections)
    return tell([dedupe_dataset(parent, options.output)], options.json)


if __name__ == "__main__":
    command_line(main)
