"""People's corrections under faults: no act that the annotator answered is lost or halved, whatever happens.

The victim is the annotator's own code (`web.annotating`) on a real dataset: it says a session's acts one
after another, each again if the storage fails, as its page does, and notes every answer outside the dataset.
Acts that were answered must be in the log whole and once; one that was not may be there whole, or not. Saying
the rest, as the page does to the next server, must end in the log of an undisturbed session.
"""

import os
import pickle
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam_engine.dataset import correction_log
from sam_engine.dataset.correction_log import CORRECTIONS_FOLDER, read_corrections
from sam_engine.dataset.corrections import apply_corrections
from sam_engine.dataset.places import Places
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import SamEngineError, StorageError
from sam_engine.ops.rle import encode_mask
from sam_engine.web.acts import parse_act
from sam_engine.web.annotating import Annotating
from tests.helpers.dataset_builder import image, rectangle_mask, write_dataset

from .calls import Call, Fault, injector, watch
from .crashstates import Disk, Operation
from .powerloss import record_calls
from .result import Order, Result
from .scene import Plant

TRIES = 3
"""Of an act, before the victim gives up with `STORAGE`."""
STORAGE = 4
FILE_BYTES = 1500
"""Of a file of the log here: a session fills several."""
KILLS = 100
KINDS = ("kill", "kill_after", "EIO_after", "ENOSPC", "EIO", "EDQUOT")
MASKS = [rectangle_mask(24, 32, x, 3, 6, 5) for x in (2, 12, 22)]
RECORDS = [image(0, b"a.jpg", MASKS[:2]), image(1, b"b.jpg", MASKS[:1])]
_MANY = 2**40  # lines seen: nobody else is there


def session() -> list[dict[str, Any]]:
    """Return the acts of a session: drawn, deleted, merged, labelled, undone, redone, declared exhaustive."""

    def add(number: int) -> dict[str, Any]:
        segmentation = {"size": [24, 32], "counts": encode_mask(np.roll(MASKS[2], number, axis=0))}
        return {"operation": "add", "mask_id": f"{number:016x}", "segmentation": segmentation}

    steps = [
        (0, 1, [add(1)]),
        (0, 2, [add(2)]),
        (0, 3, [{"operation": "delete", "mask_id": 0}]),
        (0, 4, [*({"operation": "delete", "mask_id": f"{number:016x}"} for number in (1, 2)), add(3)]),
        (0, 5, [{"operation": "label", "mask_id": 1, "label": "cup"}]),
        (0, 4, [{"operation": "undo"}]),
        (0, 4, [{"operation": "redo"}]),
        (1, 6, [{"operation": "delete", "mask_id": 65536}, add(4), add(5)]),
        (0, 7, [{"operation": "accept", "mask_id": None}]),
        (1, 6, [{"operation": "undo"}]),
        (1, 8, [{"operation": "accept", "mask_id": None}]),
    ]
    return [
        {"image_id": image_id, "by": "Ada", "seen": _MANY, "act": f"{act:016x}", "lines": lines}
        for image_id, act, lines in steps
    ]


def run_corrections(work: Path, order: Order) -> Result:
    """Fail or kill at calls, kill at random moments, and lose power after every call."""
    result, place = Result(campaign="corrections"), _Place(work)
    code = place.run(order.plant)
    if code:
        raise RuntimeError(f"an undisturbed session ended with {code}")
    place.reference = place.said()
    counts = place.count_calls(order.plant)
    result.details["calls in a session"] = counts.total()
    faults = [fault for name, count in counts.items() if order.wants(name) for fault in _faults(name, count)]
    for fault in order.draw(faults):

        def inject(fault: Fault = fault) -> None:
            _planted(order.plant)
            watch(place.root, injector(fault))

        place.clear()
        _judge(place, str(fault), place.run(inject), order.plant, result)
        result.by_kind[f"{fault.kind}{' persistent' if fault.persistent else ''}"] += 1
        if result.is_enough(order):
            return result
    _kill_at_random(place, order, result)
    _lose_power(place, order, result)
    return result


def _faults(name: str, count: int) -> Iterator[Fault]:
    """Yield what may happen to the calls of one name; a disk that is full stays so."""
    for ordinal in range(1, count + 1):
        for kind in KINDS:
            yield Fault(name=name, ordinal=ordinal, kind=kind)
            if kind.isupper():
                yield Fault(name=name, ordinal=ordinal, kind=kind, persistent=True)
        if name == "write":
            yield Fault(name=name, ordinal=ordinal, kind="short")


def _kill_at_random(place: "_Place", order: Order, result: Result) -> None:
    """Kill sessions at random moments."""
    dice = random.Random(order.seed)
    place.clear()
    started = time.monotonic()
    place.run(order.plant)
    whole_s = time.monotonic() - started
    for number in range(KILLS if order.limit is None else min(KILLS, order.limit)):
        place.clear()
        code = place.run(order.plant, kill_after_s=dice.uniform(0, whole_s))
        _judge(place, f"kill {number}", code, order.plant, result)
        result.by_kind["SIGKILL"] += 1


def _lose_power(place: "_Place", order: Order, result: Result) -> None:
    """Judge every state that a disk may be in after each call of a session."""
    place.clear()
    trace = place.root / "trace"

    def spy() -> None:
        _planted(order.plant)
        record_calls(place.root, trace, None)

    place.run(spy, trace=trace)
    disk, dice, known = Disk(), random.Random(order.seed), set()
    for made in (Operation(name="mkdir", path="out"), Operation(name="fsync", is_folder=True)):
        disk.apply(made)
    answered: list[int] = []
    num_states = 0
    for number, operation in enumerate(_operations(trace)):
        if operation.name == "answer":
            answered.append(int(operation.path))
        disk.apply(operation)
        for state in disk.crash_states(ignore="out/_meta/", dice=dice):
            num_states += 1
            key = (frozenset((path, hash(data)) for path, data in state.items()), len(answered))
            if key in known:
                continue
            known.add(key)
            place.lay_out(state)
            problems = place.problems(answered)
            result.violations += [f"power lost after operation {number}: {problem}" for problem in problems]
    result.injected += len(known)
    result.by_kind["power lost, distinct states"] = len(known)
    result.details["states"] = num_states


def _operations(trace: Path) -> Iterator[Operation]:
    with trace.open("rb") as file:
        while file.peek(1):
            yield pickle.load(file)


def _judge(place: "_Place", what: str, code: int, plant: Plant | None, result: Result) -> None:
    """Hold what a fault left, and what going on makes of it, against the promises."""
    result.injected += 1
    result.outcomes["killed" if code < 0 else f"exit {code}"] += 1
    problems = place.problems(place.answered())
    if code > 0 and code != STORAGE:
        problems.append(f"exit {code}")
    if place.run(plant) != 0:
        problems.append("the session cannot go on")
    elif place.said() != place.reference:
        problems.append("going on does not end in the log of an undisturbed session")
    result.violations += [f"{what}: {problem}" for problem in problems]


class _Place:
    """A dataset, the session, and what was answered."""

    def __init__(self, work: Path) -> None:
        self.root = work / "place"
        self.root.mkdir()
        self._out = self.root / "out"
        self._answers = work / "answers"
        self.reference: dict[int, list[tuple[Any, ...]]] = {}
        write_dataset(self._out, RECORDS)

    def clear(self) -> None:
        """Leave the dataset alone, as it was before the first act."""
        shutil.rmtree(self._out / CORRECTIONS_FOLDER, ignore_errors=True)
        shutil.rmtree(self._out / "_meta/tmp", ignore_errors=True)
        self._answers.unlink(missing_ok=True)

    def lay_out(self, state: Mapping[str, bytes]) -> None:
        """Write the log's files of a crash state."""
        self.clear()
        (self._out / CORRECTIONS_FOLDER).mkdir()
        for path, data in state.items():
            if path.startswith(f"out/{CORRECTIONS_FOLDER}/"):
                (self.root / path).write_bytes(data)

    def run(
        self, before: Plant | None = None, *, kill_after_s: float | None = None, trace: Path | None = None
    ) -> int:
        """Say what was not answered, in a process of its own; return its exit code, negative if killed."""
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _planted(before)
                code = self._say_session(trace)
            finally:
                os._exit(code)
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    def _say_session(self, trace: Path | None) -> int:
        """Say act after act from the first that was not answered; note which were."""
        correction_log.FILE_BYTES = FILE_BYTES
        dataset = open_dataset(self._out)
        answers = os.open(self._answers, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        web = None
        first = len(self.answered())
        for number, document in list(enumerate(session()))[first:]:
            for _ in range(TRIES):
                try:
                    web = web or Annotating(dataset, Places(dataset))
                    web.say(parse_act(document, document["image_id"]))
                except StorageError:
                    continue
                os.write(answers, b"%d\n" % number)
                if trace is not None:
                    with trace.open("ab") as file:
                        pickle.dump(Operation(name="answer", path=str(number)), file)
                break
            else:
                return STORAGE
        return 0

    def count_calls(self, plant: Plant | None) -> Counter[str]:
        """Return how often a session makes each call below the dataset's folder."""
        names = self.root.parent / "names"
        descriptor = os.open(names, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def note(call: Call, proceed: Callable[[], Any]) -> Any:
            os.write(descriptor, call.name.encode() + b"\n")
            return proceed()

        def count() -> None:
            _planted(plant)
            watch(self.root, note)

        self.clear()
        self.run(count)
        os.close(descriptor)
        return Counter(names.read_text().split())

    def answered(self) -> list[int]:
        """Return the numbers of the acts that were answered."""
        return list(map(int, self._answers.read_text().split())) if self._answers.exists() else []

    def said(self) -> dict[int, list[tuple[Any, ...]]]:
        """Return what the log says, without times."""
        return {
            image_id: [(line.act, line.operation, line.mask_id, line.counts, line.label) for line in lines]
            for image_id, lines in sorted(read_corrections(self._out).items())
        }

    def problems(self, answered: Sequence[int]) -> list[str]:
        """Return which promises the log breaks."""
        try:
            said = self.said()
            for record in RECORDS:
                apply_corrections(record, read_corrections(self._out).get(record.image_id, ()))
        except SamEngineError as error:
            return [f"the log cannot be read: {error}"]
        found = []
        for number, document in enumerate(session()):
            wanted = Counter((document["act"], line["operation"]) for line in document["lines"])
            there = Counter(
                (act, operation.value)
                for act, operation, *_ in said.get(document["image_id"], ())
                if (act, operation.value) in wanted
            )
            if there != wanted and (there or number in answered):
                state = "lost" if not there else "halved or doubled"
                found.append(f"act {number}, {'' if number in answered else 'not '}answered, is {state}")
        return found


def _planted(plant: Plant | None) -> None:
    if plant is not None:
        plant()
