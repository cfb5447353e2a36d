"""What was found, step by step: appended to a file as it comes, and told as a table in the end."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PASS, FAIL, SKIP = "PASS", "FAIL", "SKIP"


@dataclass(slots=True)
class Finding:
    """What a step found: numbers, and what did not hold."""

    facts: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def hold(self, promise: str, is_kept: bool) -> None:
        """Note it if a promise is not kept."""
        if not is_kept:
            self.broken.append(promise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part of a letter that stands or falls alone."""

    letter: str
    name: str
    work: Callable[[Finding], None]
    """Fills in what it finds, so that what comes before an error is told too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A step that is done, or was not begun."""

    letter: str
    name: str
    status: str
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    broken: Sequence[str] = ()
    """Promises that were not kept, or the error."""


class Ledger:
    """Runs steps and keeps book."""

    def __init__(
        self, path: Path, deadline: float, tell: Callable[[str], None], tidy: Callable[[], None]
    ) -> None:
        """Take where to write.

        Args:
            path: One line of JSON for each step; an earlier file is continued.
            deadline: Of `time.monotonic`; no step begins later.
            tell: Is given a line of text for each step.
            tidy: Called after each step, to free what it left.
        """
        self._path, self._deadline, self._tell, self._tidy = path, deadline, tell, tidy
        self.entries: list[Entry] = []

    def run(self, step: Step) -> None:
        """Do a step, unless it is too late; whatever it raises is its failure and nobody else's."""
        started = time.monotonic()
        if started >= self._deadline:
            self._add(Entry(letter=step.letter, name=step.name, status=SKIP))
            return
        found = Finding()
        try:
            step.work(found)
        except Exception as error:  # noqa: BLE001  # the steps that follow are worth as much
            found.broken.append(f"{type(error).__name__}: {error}"[:2000])
        finally:
            self._tidy()
        self._add(
            Entry(
                letter=step.letter,
                name=step.name,
                status=FAIL if found.broken else PASS,
                seconds=round(time.monotonic() - started, 3),
                facts=found.facts,
                broken=tuple(found.broken),
            )
        )

    def verdict(self, letter: str) -> str:
        """Return what became of a letter: no better than the worst of its steps."""
        statuses = {entry.status for entry in self.entries if entry.letter == letter}
        return next((status for status in (FAIL, SKIP) if status in statuses), PASS if statuses else SKIP)

    def table(self, titles: Mapping[str, str]) -> str:
        """Return all as Markdown: the letters, then each step with its facts."""
        lines = ["| | | |", "|---|---|---|"]
        lines += [f"| {letter} | {title} | {self.verdict(letter)} |" for letter, title in titles.items()]
        lines += ["", "| | step | | s | found |", "|---|---|---|---|---|"]
        for entry in self.entries:
            facts = [f"{name} {_short(value)}" for name, value in entry.facts.items()]
            told = "; ".join([*facts, *(f"**{text}**" for text in entry.broken)])
            cells = (entry.letter, entry.name, entry.status, f"{entry.seconds:.1f}", _in_a_cell(told))
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def _add(self, entry: Entry) -> None:
        """Keep an entry, on disk before anything else is begun."""
        self.entries.append(entry)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(entry)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        told = "; ".join(entry.broken) or ", ".join(f"{k}={_short(v)}" for k, v in entry.facts.items())
        self._tell(f"{entry.status} {entry.letter} {entry.name} ({entry.seconds:.1f} s): {told}")


def _short(value: object) -> str:
    """Return a number with four digits, anything else as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _in_a_cell(text: str) -> str:
    """Return text that ends no cell of a table."""
    return text.replace("|", "/").replace("\n", " ")
