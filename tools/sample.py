"""Take a random part of a dataset: python -m tools.sample OUT --count 1000 --output PART."""

from collections.abc import Sequence

from sam_engine.dataset.rewrite.operations import sample_dataset

from .command import command_line
from .derive import add_corrections_flag, open_parents, parser_of, tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample; print what was drawn."""
    description = "Draw images by seed and path: a larger sample of a seed has all that a smaller has."
    parser = parser_of("sample", description)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--fraction", type=float, help="of the images, above 0 and up to 1")
    size.add_argument("--count", type=int, help="of images")
    parser.add_argument("--seed", type=int, default=0, help="another one draws others (default 0)")
    add_corrections_flag(parser)
    options = parser.parse_args(arguments)
    [parent] = open_parents([options.dataset], options.corrections)
    made = sample_dataset(
        parent, options.output, fraction=options.fraction, count=options.count, seed=options.seed
    )
    return tell([made], options.json)


if __name__ == "__main__":
    command_line(main)
