"""What tools have in common: one line for every expected end, exit codes, flags of the mask generator."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from sam_engine.catalogue import Thresholds
from sam_engine.compute.signals import leave, stoppable
from sam_engine.config import AmgConfig
from sam_engine.errors import SamEngineError

Main = Callable[[Sequence[str] | None], int]


def command_line(main: Main) -> NoReturn:
    """Run a tool on the command line's arguments, and end the process."""
    leave(run(main))


def run(main: Main, arguments: Sequence[str] | None = None) -> int:
    """Return the exit code of a tool's ``main``; our errors and signals become one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return stoppable(
        lambda: _run(main, arguments),
        afterwards="nothing half written is left, and the same command can be given again",
    )


def _run(main: Main, arguments: Sequence[str] | None) -> int:
    """Return the exit code of a tool that no signal stops."""
    code = 1
    try:
        code = main(arguments)
        sys.stdout.flush()
    except SamEngineError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def add_amg_flags(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Give a tool flags for settings of the mask generator; the defaults are those of segment_anything."""
    defaults = AmgConfig().with_thresholds(Thresholds())
    for name in names:
        default = getattr(defaults, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            metavar="N",
            help=f"of the mask generator (default {default})",
        )
