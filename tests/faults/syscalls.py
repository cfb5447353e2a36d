"""Make the k-th call of every kind fail or kill, look, resume, and compare with an undisturbed run.

Twice: through `calls`, which knows more kinds of failure and runs anywhere, and through strace, which fails
the system calls themselves, whoever makes them.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .calls import Call, Fault, injector, watch
from .result import Order, Result
from .scene import Plant, Scene, wait

ERRORS = ("ENOSPC", "EIO", "EDQUOT")
SYSCALLS = (
    "openat,write,pwrite64,fsync,fdatasync,ftruncate,link,linkat,unlink,unlinkat,mkdir,mkdirat,"
    "rename,renameat,renameat2"
)
STORAGE = 4
"""Exit code for an output that cannot be written."""

_SYSCALL = re.compile(r"(?:\d+ +)?(\w+)\((.*)")
_NAME_OF_SYSCALL = {"openat": "open", "pwrite64": "pwrite", "rename": "replace"}


def run_shim(scene: Scene, order: Order) -> Result:
    """Inject through `calls`."""
    result = Result(campaign="calls")
    counts = count_calls(scene, order.plant)
    result.details["calls in a run"] = dict(counts)
    wanted = [(name, count) for name, count in counts.items() if order.wants(name)]
    for fault in order.draw([fault for name, count in wanted for fault in _shim_faults(name, count)]):

        def inject(fault: Fault = fault) -> None:
            if order.plant is not None:
                order.plant()
            watch(scene.root, injector(fault))

        scene.clear()
        code = scene.run(inject)
        _judge(scene, fault, code, order.plant, result)
        if result.is_enough(order):
            break
    return result


def run_strace(scene: Scene, order: Order) -> Result:
    """Inject through strace."""
    result = Result(campaign="syscalls")
    if shutil.which("strace") is None:
        result.skipped = "strace is not installed"
        return result
    log = scene.root / "strace.txt"
    scene.clear()
    code = _run_under_strace(scene, log, [], order.plant)
    if code is None:
        result.skipped = "strace may not attach to processes here"
        return result
    traced = list(_syscalls_below(log, scene.root))
    counts = Counter(call.name for call in traced)
    result.details["system calls in a run"] = dict(counts)
    changing = Counter(_NAME_OF_SYSCALL.get(call.name, call.name) for call in traced if not call.lists)
    if changing != (seen := count_calls(scene, order.plant)):
        result.violations.append(f"strace sees {dict(changing)}, and calls.py {dict(seen)}")
    for fault in order.draw([f for call in traced if order.wants(call.name) for f in _strace_faults(call)]):
        when = f"{fault.ordinal}{'+' if fault.persistent else ''}"
        what = "signal=KILL" if fault.kind == "kill" else f"error={fault.kind}"
        scene.clear()
        code = _run_under_strace(scene, log, ["-e", f"inject={fault.name}:{what}:when={when}"], order.plant)
        assert code is not None
        if not fault.persistent and fault.kind != "kill":
            hits = [line for line in log.read_text().splitlines() if "(INJECTED)" in line]
            if len(hits) != 1 or not _is_ours(hits[0], scene.root):
                result.outcomes["missed their call (not counted)"] += 1
                continue
        _judge(scene, fault, code, order.plant, result)
        if result.is_enough(order):
            break
    return result


def count_calls(scene: Scene, plant: Plant | None = None) -> Counter[str]:
    """Return how often an undisturbed run makes each call below the scene's folder."""
    with tempfile.TemporaryFile() as names:

        def note(call: Call, proceed: Callable[[], Any]) -> Any:
            names.write(call.name.encode() + b"\n")
            names.flush()
            return proceed()

        def count() -> None:
            if plant is not None:
                plant()
            watch(scene.root, note)

        scene.clear()
        scene.run(count)
        names.seek(0)
        return Counter(line.decode().strip() for line in names)


def _judge(scene: Scene, fault: Fault, code: int, plant: Plant | None, result: Result) -> None:
    """Hold what a fault left, and what resuming makes of it, against the promises."""
    result.injected += 1
    result.by_kind[f"{fault.kind}{' persistent' if fault.persistent else ''}"] += 1
    result.outcomes["killed" if code < 0 else f"exit {code}"] += 1
    problems = scene.visible_problems()
    # Temporaries of a killed or hindered process may be left; the next run sweeps them up.
    if code == 0 and (unfinished := [p for p in scene.final_problems() if not p.endswith("left behind")]):
        problems += [f"exit 0, but {problem}" for problem in unfinished]
    if code not in (0, STORAGE) and not fault.kind.startswith("kill"):
        problems.append(f"exit {code}, which is neither 0 nor {STORAGE}: {_last_line(scene.log)}")
    again = scene.run(plant)
    if again:
        problems.append(f"resuming ended with {again}: {_last_line(scene.log)}")
    problems += [f"after resuming, {problem}" for problem in scene.final_problems()]
    result.violations += [f"{fault}: {problem}" for problem in problems]


def _shim_faults(name: str, count: int) -> Iterator[Fault]:
    """Yield all faults of the calls of one name."""
    for ordinal in range(1, count + 1):
        for kind in ("kill", "kill_after", "EIO_after"):
            yield Fault(name=name, ordinal=ordinal, kind=kind)
        if name in ("write", "pwrite"):
            yield Fault(name=name, ordinal=ordinal, kind="short")
        for kind in ERRORS:
            for persistent in (False, True):
                yield Fault(name=name, ordinal=ordinal, kind=kind, persistent=persistent)


@dataclass(frozen=True, kw_only=True)
class _Traced:
    """A system call that strace saw."""

    name: str
    ordinal: int
    """Among those of its name, from 1."""
    lists: bool
    """It opens a folder to list it."""


def _strace_faults(call: _Traced) -> Iterator[Fault]:
    """Yield all faults of one system call. If those of openat persisted, no file at all could be opened."""
    yield Fault(name=call.name, ordinal=call.ordinal, kind="kill")
    for kind in ERRORS:
        for persistent in (False, True) if call.name != "openat" else (False,):
            yield Fault(name=call.name, ordinal=call.ordinal, kind=kind, persistent=persistent)


def _run_under_strace(scene: Scene, log: Path, inject: list[str], plant: Plant | None) -> int | None:
    """Run a victim under strace; return how it ended, or None if strace may not attach.

    Only the main thread is traced, which makes all writes: the count of its calls is the same in every run.
    """
    barrier, release = os.pipe()

    def hold() -> None:
        os.close(release)
        os.read(barrier, 1)
        if plant is not None:
            plant()

    pid = scene.start(hold)
    os.close(barrier)
    command = ["strace", "-y", "-o", str(log), "-e", f"trace={SYSCALLS}", *inject, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        if "attached" not in said:
            tracer.wait()
            os.kill(pid, 9)
            wait(pid)
            os.close(release)
            return None
        os.write(release, b".")
        os.close(release)
        code = wait(pid)
        tracer.stderr.read()
    return code


def _syscalls_below(log: Path, root: Path) -> Iterator[_Traced]:
    """Yield the traced calls that change or list folders below ``root``, but for the photos and the log."""
    counts: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        match = _SYSCALL.match(line)
        if match is None:
            continue
        name, arguments = match.groups()
        counts[name] += 1
        reads = name == "openat" and not re.search("O_CREAT|O_DIRECTORY", arguments)
        if _is_ours(arguments, root) and not reads:
            lists = name == "openat" and "O_NONBLOCK" in arguments  # glibc's opendir
            yield _Traced(name=name, ordinal=counts[name], lists=lists)


def _is_ours(arguments: str, root: Path) -> bool:
    """Return whether a system call concerns the scene's folder, and neither the photos nor the log in it."""
    return re.search(rf"{re.escape(str(root))}(?!/photos|/log\.txt)\b", arguments) is not None


def _last_line(log: Path) -> str:
    """Return the last line of a log."""
    deadline = time.monotonic() + 1
    while not (lines := log.read_text(errors="replace").splitlines()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return lines[-1] if lines else "(nothing was printed)"
