"""The letters in their order, and what is told in the end."""

import gc
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from sam_engine.errors import ConfigError

from . import attention, broken, generator, memory, models, operations, rows, tf32, training
from .ledger import PASS, Ledger
from .subjects import Subjects

RESULTS, TABLE = "results.jsonl", "table.md"

MODULES = {
    "A": operations,
    "B": models,
    "C": generator,
    "D": attention,
    "E": memory,
    "F": tf32,
    "G": rows,
    "H": broken,
    "I": training,
}
TITLES = {
    "A": "operations on the device are the CPU's",
    "B": "models on the device are the CPU's, half precision is float32's",
    "C": "the generator waits twice an image and finds the CPU's masks",
    "D": "attention takes the best of torch's kernels",
    "E": "memory is bounded, and its lack is survived",
    "F": "rounding to TF32 is ours alone",
    "G": "images a second",
    "H": "a broken device is told from a bad image",
    "I": "training",
}


def prove(
    output: Path, *, device: str, is_dry: bool, letters: str, deadline: float, stood_in: Sequence[str]
) -> int:
    """Run the letters; return 0 if all passed.

    Args:
        output: Folder of the results.
        device: Where the models are.
        is_dry: A CPU plays the device, at small sizes.
        letters: Which, in the order of `MODULES`.
        deadline: Of `time.monotonic`; no step begins later.
        stood_in: Packages that are missing.

    Raises:
        ConfigError: There is no such device or letter.
    """
    unknown = set(letters) - set(MODULES)
    if unknown or not letters:
        raise ConfigError(f"--letters is {letters!r}; choose from {''.join(MODULES)}")
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device is {device!r}, but torch finds no CUDA device here; try --dry-run")
    output.mkdir(parents=True, exist_ok=True)
    (output / RESULTS).unlink(missing_ok=True)
    ledger = Ledger(output / RESULTS, deadline, tell=_tell, tidy=_tidy)
    titles = {letter: TITLES[letter] for letter in MODULES if letter in letters}
    with tempfile.TemporaryDirectory() as folder:
        subjects = Subjects(device=place, is_dry=is_dry, folder=Path(folder))
        for letter in titles:
            for step in MODULES[letter].steps(subjects):
                ledger.run(step)
            (output / TABLE).write_text(f"{_describe(place, is_dry, stood_in)}\n{ledger.table(titles)}")
    for letter in titles:
        _tell(f"{letter} {ledger.verdict(letter)}")
    return 0 if all(ledger.verdict(letter) == PASS for letter in titles) else 1


def _tell(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _tidy() -> None:
    """Free what a step left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _describe(place: torch.device, is_dry: bool, stood_in: Sequence[str]) -> str:
    """Return what the numbers depend on."""
    is_cuda = place.type == "cuda"
    name = torch.cuda.get_device_name(place) if is_cuda else f"{platform.machine()} CPU"
    lines = [
        f"- date: {datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC')}",
        f"- hardware: {name}, {os.cpu_count()} cores",
        f"- software: torch {torch.__version__}, Python {platform.python_version()}",
        "- command: `python -m tools.bench.gpu_proof" + (" --dry-run`" if is_dry else "`"),
        f"- stood in for: {', '.join(stood_in) or 'nothing'}",
    ]
    if is_dry:
        lines.append("- a dry run on a CPU, at small sizes: nothing is shown of a GPU")
    return "\n".join(lines) + "\n"
