"""Which processes a process has started, and which of them still run. Linux only: it reads /proc."""

from collections.abc import Iterable
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """Return the processes that a process has started, directly or not, by id with their command lines."""
    found, waiting = {}, [pid]
    while waiting:
        for children in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            try:
                ids = [int(child) for child in children.read_text().split()]
            except (FileNotFoundError, ProcessLookupError):
                continue
            for child in ids:
                try:
                    line = Path(f"/proc/{child}/cmdline").read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                found[child] = line.replace(b"\0", b" ").decode(errors="replace")
                waiting.append(child)
    return found


def is_running(pid: int) -> bool:
    """Return whether a process runs; a dead one may wait for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def survivors(pids: dict[int, str]) -> dict[int, str]:
    """Return what of those processes still runs."""
    return {pid: line for pid, line in pids.items() if is_running(pid)}


def named(processes: dict[int, str], names: Iterable[str]) -> list[int]:
    """Return the ids of those whose command line contains one of the names."""
    return [pid for pid, line in processes.items() if any(name in line for name in names)]
