"""Train where there is no Hydra: ``python -m sam_engine.training CONFIG.json [key=value ...]``."""

import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from sam_engine.errors import SamEngineError
from sam_engine.training.run import read_config, run_training


def main(arguments: Sequence[str]) -> int:
    """Train with the settings of a file; values on the command line are JSON, or else text."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if not arguments or arguments[0].startswith("-"):
        sys.stderr.write("usage: python -m sam_engine.training CONFIG.json [key=value ...]\n")
        return 2
    path, *overrides = arguments
    try:
        changes = dict(_split(override) for override in overrides)
        return run_training(read_config(path, changes))
    except SamEngineError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code


def _split(override: str) -> tuple[str, Any]:
    """Return key and value of ``key=value``."""
    key, _, text = override.partition("=")
    try:
        return key, json.loads(text)
    except ValueError:
        return key, text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
