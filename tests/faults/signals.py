"""SIGINT and SIGTERM at every phase of a run, with Ray and in one process: how it ends, what the next makes.

The program is started as users start it, with the bundled model and eight small images.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.helpers import fakes

from .result import Order, Result
from .scene import read_files

ROOT = Path(__file__).resolve().parents[2]
PHASES = {
    "inline": ("imports", "listing", "model", "shards", "finish"),
    "ray": ("imports", "listing", "ray", "model", "shards", "finish"),
}
NUMBERS = (signal.SIGINT, signal.SIGTERM)
MAX_PAUSE_S = 0.25
"""Between a phase's beginning and the signal, at most."""
MAX_RUN_S = 600.0
"""Longer, even on a machine with ten times as much to do, is a hang."""
TOO_BUSY = "Ray did not start"
"""What a run says of a machine that has not started it in half a minute."""


def run_signals(work: Path, order: Order, *, executor: str) -> Result:
    """Stop so many runs, 50 by each signal if not said, spread evenly over the phases; count by phase.

    A run goes on where the one before it was stopped. When all phases have had both signals, one is left
    alone, and what it made is compared.
    """
    result = Result(campaign=f"signals {executor}")
    dice = random.Random(order.seed)
    fakes.write_images(work / "in", 8)
    calm, err = _run(work, work / "calm", executor)
    if calm != 0:
        raise RuntimeError(f"the undisturbed run ended with {calm}:\n{err}")
    reference = read_files(work / "calm")
    planned = [
        (NUMBERS[turn % 2], PHASES[executor][turn // 2 % len(PHASES[executor])])
        for turn in range(order.limit or 100)
    ]
    num_on_one_output = len(NUMBERS) * len(PHASES[executor])
    for turn, (number, phase) in enumerate(planned):
        num_known = len(result.violations)
        _stop_one(work, executor, number, phase, dice.uniform(0, MAX_PAUSE_S), result)
        if (turn + 1) % num_on_one_output == 0 or turn == len(planned) - 1:
            _finish(work, executor, reference, result)
        done = f"{turn + 1} of {len(planned)}, {number.name} at {phase}: {dict(result.outcomes)}"
        print(done, *result.violations[num_known:], sep="\n  ", file=sys.stderr)
    return result


def _stop_one(
    work: Path, executor: str, number: signal.Signals, phase: str, pause_s: float, result: Result
) -> None:
    """Start a run, send one signal some time after a phase has begun, and judge how it ends."""
    marker = work / "phase"
    marker.unlink(missing_ok=True)
    environment = {"PHASE": phase, "PHASE_FILE": str(marker), "PHASE_INPUT": str(work / "in")}
    process = _start(work, work / "out", executor, environment)
    deadline = time.monotonic() + MAX_RUN_S
    while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(pause_s)
    process.send_signal(number)
    try:
        _, err = process.communicate(timeout=MAX_RUN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
        result.violations.append(f"{number.name} at {phase} + {pause_s:.2f} s: it hung")
        return
    if process.returncode == 1 and TOO_BUSY in err:
        result.by_kind[f"{phase}: {TOO_BUSY}"] += 1
        return
    result.injected += 1
    result.outcomes[f"ended with {process.returncode}"] += 1
    if process.returncode == 0:  # it had done all that it had to
        result.by_kind[f"{phase}: too late"] += 1
        return
    result.by_kind[f"{phase}: {number.name}"] += 1
    where = f"{number.name} at {phase} + {pause_s:.2f} s"
    if process.returncode != 128 + number:
        last = " | ".join(err.strip().splitlines()[-3:])
        result.violations.append(f"{where}: ended with {process.returncode}: {last}")
    elif not err.splitlines() or not err.splitlines()[-1].startswith(f"stopped by {number.name}"):
        result.violations.append(f"{where}: said {err[-300:]!r}")


def _finish(work: Path, executor: str, reference: Mapping[str, bytes], result: Result) -> None:
    """Let a run end, and compare what it made with what an undisturbed one made."""
    code, err = _run(work, work / "out", executor)
    if code != 0:
        result.violations.append(f"the run after ended with {code}: {err[-300:]}")
    files = read_files(work / "out")
    names = [name for name in {**files, **reference} if files.get(name) != reference.get(name)]
    for name in names:
        if name.endswith((".yaml", "README.md")):  # these name the output folder
            continue
        made = files.get(name, b"no such file")
        said = f": {made.decode()[:500]!r}" if name.endswith("errors.jsonl") else ""
        result.violations.append(f"{name} differs{said}")
    shutil.rmtree(work / "out", ignore_errors=True)


def _run(work: Path, output: Path, executor: str) -> tuple[int, str]:
    """Run undisturbed, again where Ray did not start, as it says; return the exit code and what was said."""
    err = TOO_BUSY
    while TOO_BUSY in err:
        process = _start(work, output, executor)
        try:
            _, err = process.communicate(timeout=MAX_RUN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, err = process.communicate()
    return process.returncode, err


def _start(
    work: Path, output: Path, executor: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start the program."""
    command = [
        sys.executable, "-m", "pipelines.auto_annotate", f"input={work / 'in'}", f"output={output}",
        f"executor={executor}", "executor.num_workers=2", "shard_size=2", "previews=1",
        "amg.points_per_side=2",
    ]  # fmt: skip
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent / "phases")])
    return subprocess.Popen(
        command, cwd=ROOT, env={**clean, "PYTHONPATH": path, **(environment or {})},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
