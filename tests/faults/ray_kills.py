"""SIGKILL of Ray's workers, nodes and drivers at random moments, several in one run; then compare.

A worker is what annotates, a decoder its child that decodes, the board an actor beside the driver that keeps
what workers said last, a node a raylet with all that runs on it.

Everything is real: the program as driver, a cluster of a head and two nodes, workers that annotate and
publish. Only the model is a fake, so that an image takes 50 ms.
"""

import contextlib
import dataclasses
import functools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from sam_engine.config import ExecutorConfig
from sam_engine.dataset.run_info import CONFIG
from tests.helpers import fakes
from tests.helpers.process_tree import descendants, is_running, named

from .ray_nodes import PYTHONPATH, ray_nodes
from .result import Order, Result
from .scene import Scene, make_scene, wait

slow_model = functools.partial(fakes.TroubledSegmenter, 0.05, (8.0, 10.0, 12.0), 64)
"""Finds the masks of the scene's own model, at 50 ms an image."""

KINDS = {"worker": 10, "driver": 4, "node": 3, "decoder": 2, "board": 1}
"""What is killed, and how often in twenty."""
MAX_RUN_S = 900.0


def run_ray(work: Path, order: Order, *, noise: bool = False) -> Result:
    """Kill so many, 30 if not said; after each, what is visible must be right, and in the end everything.

    With ``noise``, Ray's event loops are slowed down at random, too.
    """
    result = Result(campaign="ray with slow event loops" if noise else "ray")
    kills, dice = order.limit or 30, random.Random(order.seed)
    scene = make_scene(work, num_images=240, shard_size=12)
    # Ray's own fault injector: every handler of its event loops waits up to 20 ms.
    environment = {"RAY_testing_asio_delay_us": "*=0:20000"} if noise else {}
    with ray_nodes(work, environment) as nodes:
        scene = _on_ray(scene, nodes.address)

        def kill(kind: str, driver: int) -> bool:
            if kind == "node":
                nodes.kill()
                nodes.add()
                return True
            if kind == "driver":
                return _kill(driver)
            name = {
                "worker": "ray::Actor", "decoder": "sam_engine.images.isolated", "board": "ray::Board",
            }[kind]  # fmt: skip
            victims = named(descendants(nodes.pid), [name])
            return bool(victims) and _kill(dice.choice(victims))

        while result.injected < kills:
            _disturb_one_dataset(scene, dice, kill, kills, result)
    return result


def run_ray_session(work: Path, order: Order) -> Result:
    """Kill what a driver on one machine has started for itself: its raylet and its GCS, in turn.

    A driver may finish what it has begun, or end; then the next goes on. What it may not do is hang.
    """
    result = Result(campaign="raysession")
    kills, dice = order.limit or 4, random.Random(order.seed)
    os.environ["PYTHONPATH"] = PYTHONPATH
    scene = _on_ray(make_scene(work, num_images=240, shard_size=4), "local")
    scene.clear()
    code = 0
    while result.injected < kills or code != 0:
        driver = scene.start(_may_take_its_time, model=slow_model)
        num_published, is_killed = _num_published(scene), False
        while is_running(driver) and _num_published(scene) == num_published:
            time.sleep(0.05)
        _sleep_while_running(driver, dice.uniform(0.0, 1.0))
        if result.injected < kills:
            name = ("raylet/raylet", "gcs_server")[result.injected % 2]
            victims = named(descendants(driver), [name])
            is_killed = bool(victims) and _kill(victims[0])
        _sleep_while_running(driver, MAX_RUN_S / 3)
        if is_running(driver):
            result.violations.append(f"kill {result.injected + 1}: the driver hung")
            _kill(driver)
        code = wait(driver)
        if is_killed:
            result.injected += 1
            result.by_kind[name.rpartition("/")[2]] += 1
            result.outcomes[f"drivers without {name.rpartition('/')[2]} that ended with {code}"] += 1
        elif code != 0:
            result.violations.append(f"a driver that nobody touched ended with {code}")
            break
        result.violations += [f"kill {result.injected}: {p}" for p in scene.visible_problems()]
        if code == 0:
            result.violations += [f"kill {result.injected}: finally, {p}" for p in scene.final_problems()]
            scene.clear()
    return result


def _disturb_one_dataset(
    scene: Scene, dice: random.Random, kill: Callable[[str, int], bool], kills: int, result: Result
) -> None:
    """Run from nothing to the end, with kills on the way; resume whenever the driver was among them."""
    scene.clear()
    deadline = time.monotonic() + MAX_RUN_S
    driver = scene.start(_may_take_its_time, model=slow_model)
    code, num_published = None, 0
    while code is None:
        _sleep_while_running(driver, dice.uniform(0.0, 2.0))
        if not is_running(driver):
            code = wait(driver)
        elif time.monotonic() > deadline:
            _kill(driver)
            code = wait(driver)
            result.violations.append(f"kill {result.injected}: the run hung")
        elif result.injected < kills:
            kind = dice.choices(list(KINDS), weights=list(KINDS.values()))[0]
            # Mostly where work is being done; now and then while what was killed is being replaced.
            if _num_published(scene) == num_published and dice.random() < 0.9:
                continue
            num_published = _num_published(scene)
            if not kill(kind, driver):
                continue
            result.injected += 1
            result.by_kind[kind] += 1
            if kind == "driver":
                wait(driver)  # its workers may still be publishing when the next run begins
                driver = scene.start(_may_take_its_time, model=slow_model)
            problems = scene.visible_problems()
            result.violations += [f"kill {result.injected} ({kind}): {problem}" for problem in problems]
    result.outcomes[f"runs that ended with exit {code}"] += 1
    if code:
        log = scene.log.read_text().splitlines()
        result.violations.append(f"kill {result.injected}: the run ended with {code}: {log[-1:]}")
    result.violations += [f"kill {result.injected}: finally, {p}" for p in scene.final_problems()]


class _RayScene(Scene):
    """A scene whose runs are on Ray, which only the file that repeats all settings tells."""

    def files(self) -> dict[str, bytes]:
        """Return the files but for that one."""
        return {name: data for name, data in super().files().items() if name != CONFIG}


def _on_ray(scene: Scene, address: str) -> Scene:
    """Return the same scene on a cluster."""
    executor = ExecutorConfig(
        name="ray",
        address=address,
        num_workers=2,
        max_shard_attempts=50,  # three kills of one shard would be given up, as they should
    )
    return _RayScene(
        root=scene.root,
        config=dataclasses.replace(scene.config, executor=executor),
        reference={name: data for name, data in scene.reference.items() if name != CONFIG},
    )


def _may_take_its_time() -> None:
    """Undo the limit of other campaigns' runs, in the driver."""
    signal.alarm(0)


def _num_published(scene: Scene) -> int:
    """Return how many shards are published."""
    return len(list((scene.output / "annotations").glob("*.parquet")))


def _sleep_while_running(pid: int, seconds: float) -> None:
    """Sleep, but not longer than a process runs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and is_running(pid):
        time.sleep(0.05)


def _kill(pid: int) -> bool:
    """Send SIGKILL; return whether there was somebody to get it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
