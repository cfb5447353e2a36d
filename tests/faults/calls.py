"""Every call by which a process changes files below a folder, seen and, if wanted, made to fail.

Only calls through ``os`` are seen, which is how the store makes all of its. The ``syscalls`` campaign holds
this against what strace sees.
"""

import errno
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = (
    "open",
    "write",
    "pwrite",
    "fsync",
    "fdatasync",
    "ftruncate",
    "link",
    "unlink",
    "mkdir",
    "rename",
    "replace",
)
_REAL = {name: getattr(os, name) for name in NAMES}
BY_DESCRIPTOR = ("write", "pwrite", "fsync", "fdatasync", "ftruncate")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call. Paths are absolute."""

    name: str
    paths: tuple[str, ...]
    """What it acts on: one path, or source and target."""
    descriptor: int | None = None
    arguments: tuple[Any, ...] = ()
    """What follows the paths or the descriptor."""


Hook = Callable[[Call, Callable[[], Any]], Any]
"""Gets a call and a function that makes it; returns what the caller gets."""


def watch(root: Path, hook: Hook) -> None:
    """Let ``hook`` decide on every call below ``root`` from now on. For processes that will end soon."""
    paths: dict[int, str] = {}
    prefix = str(root) + os.sep

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name in BY_DESCRIPTOR:
                seen = [paths.get(args[0], "")]
                made = Call(name=name, paths=tuple(seen), descriptor=args[0], arguments=args[1:])
            else:
                count = 2 if name in ("link", "rename", "replace") else 1
                seen = [os.path.abspath(os.fsdecode(path)) for path in args[:count]]
                made = Call(name=name, paths=tuple(seen), arguments=args[count:])
            is_ours = any((path + os.sep).startswith(prefix) for path in seen) and not _only_reads(made)
            answer = hook(made, lambda: real(*args, **kwargs)) if is_ours else real(*args, **kwargs)
            if name == "open":
                paths[answer] = seen[0]
            return answer

        setattr(os, name, call)

    close = os.close

    def forget(descriptor: int) -> None:
        paths.pop(descriptor, None)
        close(descriptor)

    os.close = forget
    for name in NAMES:
        wrap(name)


def _only_reads(call: Call) -> bool:
    """Return whether a call opens a file that is there, to read it."""
    return call.name == "open" and not call.arguments[0] & (os.O_CREAT | os.O_DIRECTORY)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to the ``ordinal``-th call of a name, from 1; to all later ones too if it persists.

    Kinds: ``kill`` and ``kill_after`` end the process before and after the call; ``short`` writes half;
    ``EIO_after`` makes the call and says that it failed; the others are errors instead of the call.
    """

    name: str
    ordinal: int
    kind: str
    persistent: bool = False

    def __str__(self) -> str:
        return f"{self.kind} at {self.name} {self.ordinal}{'+' if self.persistent else ''}"


def injector(fault: Fault) -> Hook:
    """Return a hook that makes one kind of fault happen."""
    counts: Counter[str] = Counter()

    def hook(call: Call, proceed: Callable[[], Any]) -> Any:
        counts[call.name] += 1
        count = counts[call.name]
        hit = count >= fault.ordinal if fault.persistent else count == fault.ordinal
        if call.name != fault.name or not hit:
            return proceed()
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind == "short":
            return _write_half(call)
        if fault.kind in ("kill_after", "EIO_after"):
            proceed()
            if fault.kind == "kill_after":
                os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, fault.kind.removesuffix("_after"))
        raise OSError(code, os.strerror(code), *call.paths[:1])

    return hook


def _write_half(call: Call) -> int:
    """Write the first half of what a write wanted to write, as a kernel may."""
    data, *offset = call.arguments
    return _REAL[call.name](call.descriptor, bytes(data)[: max(1, len(data) // 2)], *offset)
