"""Split a dataset: python -m tools.split OUT --fractions train=0.9,val=0.1 --output PARTS."""

from collections.abc import Sequence

from sam_engine.dataset.rewrite.operations import split_dataset
from sam_engine.errors import ConfigError

from .command import command_line
from .derive import add_corrections_flag, open_parents, parser_of, tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Split; print what each side has."""
    description = (
        "Make a dataset of each side of a split, in OUTPUT/SIDE. An image's side follows from its bytes and "
        "the seed: copies of it are on one side, and more images move none from theirs."
    )
    parser = parser_of("split", description)
    parser.add_argument("--fractions", required=True, help="of the images by side, as train=0.8,val=0.2")
    parser.add_argument("--seed", type=int, default=0, help="another one gives another split (default 0)")
    add_corrections_flag(parser)
    options = parser.parse_args(arguments)
    fractions = _fractions(options.fractions)
    [parent] = open_parents([options.dataset], options.corrections)
    made = split_dataset(parent, options.output, fractions, seed=options.seed)
    return tell(list(made.values()), options.json)


def _fractions(text: str) -> dict[str, float]:
    """Return fractions by side; raises `ConfigError` if the text has other things."""
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name in fractions:
            raise ConfigError(f"--fractions {text}: {name} is there twice")
        try:
            fractions[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"--fractions {text}: {part!r} is not NAME=NUMBER") from error
    return fractions


if __name__ == "__main__":
    command_line(main)
