"""Prove on a GPU what the tests show on a fake one: ``python -m tools.bench.gpu_proof --output FOLDER``.

Nine letters, A to I, in the order of their value: operations, models, the generator, attention, memory,
TF32, a benchmark, a broken device, training. torch and NumPy are all that is needed; what else the library
imports is stood in for where it is missing. Every result is appended to ``results.jsonl`` as it comes, and
what has not begun by the deadline is skipped; ``table.md`` is for docs/performance/. With ``--dry-run`` a CPU
plays the device, at small sizes: that the script runs is shown, and nothing else.

Exit code 0 if every letter passed, 1 if not.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from ..command import command_line

LETTERS = "ABCDEFGHI"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proof; return its exit code."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m tools.bench.gpu_proof", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("gpu-proof"), help="folder for what was found")
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--seconds", type=float, default=450.0, help="no step begins later (default 450)")
    parser.add_argument("--letters", default=LETTERS, help=f"which to prove (default {LETTERS})")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, at small sizes")
    options = parser.parse_args(arguments)
    from .proof.stand_ins import install

    stood_in = install()
    from .proof.program import prove

    return prove(
        options.output,
        device="cpu" if options.dry_run else options.device,
        is_dry=options.dry_run,
        letters=options.letters,
        deadline=started + options.seconds,
        stood_in=stood_in,
    )


if __name__ == "__main__":
    command_line(main)
