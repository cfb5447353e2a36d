"""What a run says of itself: a table, event files for TensorBoard, lines of the log and a progress bar."""

import csv
import io
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sam_engine.files import write_atomically
from sam_engine.training.config import TrainConfig

log = logging.getLogger(__name__)

TABLE = "log.csv"
"""Means of every ``log_steps`` steps."""
SCORES = "scores.csv"
"""Scores on the held-out images."""
EVENTS = "events"
"""Folder of TensorBoard's event files."""


class Journal:
    """The records of a run, continued from a step. What an earlier process wrote beyond it is taken back.

    Only the first of several processes writes; the others keep quiet.
    """

    def __init__(self, output: Path, step: int, config: TrainConfig, is_first: bool) -> None:
        self._is_first = is_first
        self._interval = config.log_steps
        self._pending: list[Mapping[str, float]] = []
        self._started = time.monotonic()
        if not is_first:
            return
        output.mkdir(parents=True, exist_ok=True)
        self._tables = {name: _Table(output / name, step) for name in (TABLE, SCORES)}
        self._events = _event_writer(output / EVENTS, step)
        self._bar = tqdm(total=config.total_steps, initial=step, unit="step", disable=not sys.stderr.isatty())

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._is_first:
            self._bar.close()
            if self._events is not None:
                self._events.close()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Collect a step; write the means since the last line if ``log_steps`` divides its number."""
        if not self._is_first:
            return
        self._bar.update()
        self._pending.append(values)
        if step % self._interval:
            return
        means = {key: sum(v[key] for v in self._pending) / len(self._pending) for key in values}
        means["seconds_per_step"] = (time.monotonic() - self._started) / len(self._pending)
        self._write(TABLE, "train", step, means)
        self._bar.set_postfix(loss=f"{means['loss']:.3f}", iou=f"{means['iou']:.3f}")
        log.info(
            "step %d: loss %.3f, iou %.3f, %.2f s/step",
            step,
            means["loss"],
            means["iou"],
            means["seconds_per_step"],
        )
        self._pending, self._started = [], time.monotonic()

    def add_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Write scores on held-out images."""
        self._write(SCORES, "held_out", step, scores)
        log.info(
            "step %d: held out: %s", step, ", ".join(f"{key} {value:.4f}" for key, value in scores.items())
        )

    def _write(self, table: str, group: str, step: int, values: Mapping[str, float]) -> None:
        """Add a row to a table, and to the event files."""
        self._tables[table].add(step, values)
        if self._events is not None:
            for key, value in values.items():
                self._events.add_scalar(f"{group}/{key}", value, step)
            self._events.flush()


class _Table:
    """A CSV file of one row for each step that is there, whole rows only."""

    def __init__(self, path: Path, step: int) -> None:
        """Keep the rows up to ``step``."""
        self._path = path
        if not path.exists():
            return
        rows = [
            line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
        ]
        kept = rows[:1] + [row for row in rows[1:] if int(row.partition(",")[0]) <= step]
        if "".join(kept) == path.read_text(encoding="utf-8"):
            return
        write_atomically(path, "".join(kept))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row in one write."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        with self._path.open("a", encoding="utf-8") as file:
            if file.tell() == 0:
                writer.writerow(["step", *values])
            writer.writerow([step, *(f"{value:.6g}" for value in values.values())])
            file.write(text.getvalue())


def _event_writer(folder: Path, step: int) -> Any:
    """Return a writer of TensorBoard's event files; None, saying so, where tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        log.info("tensorboardX is not installed (pip install tensorboardX): %s only", TABLE)
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
