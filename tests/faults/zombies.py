"""Two runs on one output with the lock defeated: one stands still at some call while another does everything.

Whatever the first does when it goes on, it must not change what the second has published, although its model
finds other masks: a shard that was committed stays as it is.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any

from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX
from sam_engine.dataset.verify import verify_dataset
from sam_engine.storage.local import LocalStore

from .calls import Call, watch
from .result import Order, Result
from .scene import Scene, other_model, wait
from .syscalls import STORAGE, count_calls

_Published = dict[str, tuple[int, bytes]]


def run_zombies(scene: Scene, order: Order) -> Result:
    """Stop a run at a call, and let it go on too late."""
    result = Result(campaign="zombies")
    counts = count_calls(scene, order.plant)
    stops = range(1, sum(count for name, count in counts.items() if order.wants(name)) + 1)
    for stop in order.draw(stops):
        scene.clear()
        code, zombie_code, before = _overtake(scene, stop, order)
        result.injected += 1
        result.by_kind["run overtaken at a call"] += 1
        result.outcomes[f"exit {code} and {zombie_code}"] += 1
        problems = []
        if code:
            problems.append(f"the run that overtook ended with {code}")
        if zombie_code not in (0, STORAGE):
            problems.append(f"the run that was overtaken ended with {zombie_code}")
        after = _published(scene)
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        problems += [f"{name} changed after it was published" for name in changed]
        with contextlib.suppress(Exception):
            problems += verify_dataset(open_dataset(scene.output)).problems
        problems += [f"{name} was left behind" for name in scene.temporaries()]
        result.violations += [f"overtaken at call {stop}: {problem}" for problem in problems]
        if result.is_enough(order):
            break
    return result


def defeat_lock() -> None:
    """Let any number of runs think that they hold the output, as a file system without locks does."""
    LocalStore.lock = lambda self, partition=None: contextlib.nullcontext()  # type: ignore[method-assign,assignment]


def _overtake(scene: Scene, stop: int, order: Order) -> tuple[int, int, _Published]:
    """Let one run stand still before its ``stop``-th call until another has ended; return how both ended."""
    arrived, tell_arrival = os.pipe()
    barrier, release = os.pipe()

    def stand_still() -> None:
        if order.plant is not None:
            order.plant()
        defeat_lock()
        os.close(release)
        count = 0

        def hook(call: Call, proceed: Callable[[], Any]) -> Any:
            nonlocal count
            count += order.wants(call.name)
            if count == stop and order.wants(call.name):
                os.write(tell_arrival, b".")
                os.read(barrier, 1)
            return proceed()

        watch(scene.root, hook)

    def overtake() -> None:
        if order.plant is not None:
            order.plant()
        defeat_lock()

    zombie = scene.start(stand_still, model=other_model)
    os.close(tell_arrival)
    os.read(arrived, 1)
    code = scene.run(overtake)
    before = _published(scene)
    os.close(release)
    zombie_code = wait(zombie)
    os.close(arrived)
    os.close(barrier)
    return code, zombie_code, before


def _published(scene: Scene) -> _Published:
    """Return inode and bytes of every shard."""
    folder = scene.output / ANNOTATIONS_PREFIX
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in sorted(folder.glob("*.parquet"))}
