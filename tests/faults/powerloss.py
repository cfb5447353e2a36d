"""Modelled power loss: record a run's calls, enumerate what a disk may hold afterwards, resume from there.

Also for runs that were killed before and then resumed: what the first left unsynced, the second must not take
for lasting. The model is `crashstates`; the calls are those of the real program.
"""

import os
import pickle
import random
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sam_engine.dataset.schema import ANNOTATIONS_PREFIX, MANIFEST, RUN_INFO
from sam_engine.storage.local import LOCK, LocalStore
from sam_engine.storage.store import TEMPORARY

from .calls import Call, watch
from .crashstates import MARKS, Disk, Operation
from .result import Order, Result
from .scene import Plant, Scene, state_problems

OUT = "out"
_IGNORED = f"{OUT}/{TEMPORARY}/"
_FOUND_ANEW = (f"{OUT}/{LOCK}", f"{OUT}/_meta/report.json")
"""Files about which nothing is promised."""


def run_power_loss(scene: Scene, order: Order, *, resume: bool = True) -> Result:
    """Check every crash state of an undisturbed run, and of runs killed at a call and resumed.

    Args:
        scene: The place.
        order: Its limit is on the killed runs; they are killed just after calls of its names.
        resume: Also resume from every state that differs from those before.
    """
    result = Result(campaign="powerloss")
    dice = random.Random(order.seed)
    plant = order.plant
    checker = _Checker(scene, result, dice)
    scene.clear()
    whole = record(scene, plant=plant)
    calls = [operation for operation in whole if operation.name not in MARKS]
    result.details["calls in a run"] = len(calls)
    checker.check([], whole, "a run")
    # Killed before its k-th call, from 1: just after the one that has index k - 2.
    for at in order.draw([k for k in range(2, len(calls) + 1) if order.wants(calls[k - 2].name)]):
        if result.is_enough(order):
            break
        scene.clear()
        before = record(scene, plant=plant, kill_at=at)
        checker.check(before, record(scene, plant=plant), f"a run resumed after a kill at call {at}")
    result.details["states"] = checker.num_states
    result.injected = len(checker.distinct)
    result.by_kind["distinct states"] = len(checker.distinct)
    if resume:
        for state in order.draw(checker.distinct):
            _resume(scene, state, result, plant)
    return result


def record(scene: Scene, *, plant: Plant | None = None, kill_at: int | None = None) -> list[Operation]:
    """Run a victim, which may be killed before its ``kill_at``-th operation; return what it did."""
    trace = scene.root / "trace"
    trace.unlink(missing_ok=True)

    def spy() -> None:
        if plant is not None:
            plant()
        record_calls(scene.root, trace, kill_at)

    code = scene.run(spy)
    operations = []
    with trace.open("rb") as file:
        while file.peek(1):
            operations.append(pickle.load(file))
    return [*operations, Operation(name="done")] if code == 0 else operations


class _Checker:
    """Checks crash states and remembers which there were."""

    def __init__(self, scene: Scene, result: Result, dice: random.Random) -> None:
        self.scene = scene
        self.result = result
        self.dice = dice
        self.num_states = 0
        self.distinct: list[Mapping[str, bytes]] = []
        self._known: set[frozenset[tuple[str, int]]] = set()
        self._checked: set[Any] = set()

    def check(self, before: Sequence[Operation], then: Sequence[Operation], what: str) -> None:
        """Check every state that a power failure may leave after each operation of ``then``."""
        disk = Disk()
        acknowledged: dict[str, list[bytes]] = {}
        is_done = False
        for operation in before:
            self._follow(disk, operation, acknowledged)
        for number, operation in enumerate(then):
            self._follow(disk, operation, acknowledged)
            is_done = is_done or operation.name == "done"
            for state in disk.crash_states(ignore=_IGNORED, dice=self.dice):
                self.num_states += 1
                self._judge(state, acknowledged, is_done, f"{what}, power lost after operation {number}")

    def _follow(self, disk: Disk, operation: Operation, acknowledged: dict[str, list[bytes]]) -> None:
        """Apply an operation; keep in mind what a caller was promised."""
        disk.apply(operation)
        path = operation.path
        if operation.name == "ack" and path in disk.volatile:
            acknowledged[path] = [disk.volatile[path].volatile]
        elif operation.name == "rename" and operation.target in acknowledged:
            acknowledged[operation.target].append(disk.volatile[operation.target].volatile)

    def _judge(
        self, state: Mapping[str, bytes], acknowledged: Mapping[str, list[bytes]], is_done: bool, when: str
    ) -> None:
        """Hold one state against the promises."""
        kept = {path: data for path, data in state.items() if path not in _FOUND_ANEW}
        key = frozenset((path, hash(data)) for path, data in kept.items())
        promises = frozenset((path, tuple(map(hash, options))) for path, options in acknowledged.items())
        if (key, promises, is_done) in self._checked:
            return
        self._checked.add((key, promises, is_done))
        if key not in self._known:
            self._known.add(key)
            self.distinct.append(state)
        files = {path.removeprefix(f"{OUT}/"): data for path, data in kept.items()}
        problems = state_problems(files, self.scene.reference)
        problems += [
            f"{path} was promised to last"
            for path, options in acknowledged.items()
            if path not in _FOUND_ANEW and state.get(path) not in options
        ]
        if RUN_INFO in files and MANIFEST not in files:
            problems.append(f"{RUN_INFO} is there, but {MANIFEST} is not")
        if RUN_INFO not in files and any(name.startswith(ANNOTATIONS_PREFIX) for name in files):
            problems.append(f"shards are there, but {RUN_INFO} is not")
        if is_done:
            missing = sorted(self.scene.reference.keys() - files.keys())
            problems += [f"the run had ended with exit 0, but {name} is missing" for name in missing]
        self.result.violations += [f"{when}: {problem}" for problem in problems]


def _resume(scene: Scene, state: Mapping[str, bytes], result: Result, plant: Plant | None) -> None:
    """Lay out a crash state and run: it must end as an undisturbed run does."""
    scene.clear()
    for path, data in state.items():
        (scene.root / path).parent.mkdir(parents=True, exist_ok=True)
        (scene.root / path).write_bytes(data)
    code = scene.run(plant)
    result.outcomes[f"resumed with exit {code}"] += 1
    problems = scene.final_problems() if code == 0 else [f"resuming ended with exit {code}"]
    names = ", ".join(sorted(state)) or "nothing"
    result.violations += [f"from {names}: {problem}" for problem in problems]


def record_calls(root: Path, trace: Path, kill_at: int | None) -> None:
    """Write every operation below ``root`` to ``trace`` as it is made."""
    file = trace.open("wb", buffering=0)
    count = 0

    def note(operation: Operation) -> None:
        file.write(pickle.dumps(operation))

    def relative(path: str) -> str:
        inside = os.path.relpath(path, root)
        return "" if inside == "." else inside

    def hook(call: Call, proceed: Callable[[], Any]) -> Any:
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        paths = [relative(path) for path in call.paths]
        answer = proceed()
        match call.name:
            case "open" if call.arguments[0] & os.O_CREAT:
                note(Operation(name="create", path=paths[0]))
            case "open":
                note(Operation(name="open", path=paths[0]))
            case "write":
                note(Operation(name="write", path=paths[0], data=bytes(call.arguments[0])[:answer]))
            case "pwrite":
                data, offset = bytes(call.arguments[0])[:answer], call.arguments[1]
                note(Operation(name="write", path=paths[0], data=data, offset=offset))
            case "ftruncate":
                note(Operation(name="ftruncate", path=paths[0], offset=call.arguments[0]))
            case "fsync" | "fdatasync":
                note(Operation(name="fsync", path=paths[0], is_folder=os.path.isdir(call.paths[0])))
            case "link":
                note(Operation(name="link", path=paths[0], target=paths[1]))
            case "rename" | "replace":
                note(Operation(name="rename", path=paths[0], target=paths[1]))
            case "unlink" | "mkdir":
                note(Operation(name=call.name, path=paths[0]))
        return answer

    def acknowledge(name: str) -> None:
        real = getattr(LocalStore, name)

        def method(store: LocalStore, path: str, data: bytes) -> Any:
            answer = real(store, path, data)
            note(Operation(name="ack", path=f"{OUT}/{path}"))
            return answer

        setattr(LocalStore, name, method)

    acknowledge("put_exclusive")
    acknowledge("replace")
    watch(root, hook)
