"""SIGKILL at random moments, again and again, until a run gets through; then compare."""

import random
import signal
import time

from .result import Order, Result
from .scene import Plant, Scene, kill, wait

DEFAULT_KILLS = 500


def run_kills(scene: Scene, order: Order) -> Result:
    """Kill runs and their resumptions until enough have died. After each, what is visible must be right."""
    result = Result(campaign="kill")
    dice = random.Random(order.seed)
    kills = DEFAULT_KILLS if order.limit is None else order.limit
    whole_run_s = min(_time(scene, order.plant) for _ in range(3))
    while result.injected < kills and not result.is_enough(order):
        scene.clear()
        code = -signal.SIGKILL
        for attempt in range(100):
            victim = scene.start(order.plant)
            time.sleep(dice.uniform(0, whole_run_s))
            code = kill(victim) if attempt < 99 else wait(victim)
            if code == -signal.SIGKILL:
                result.injected += 1
                result.by_kind["SIGKILL"] += 1
            problems = scene.visible_problems()
            result.violations += [f"kill {result.injected}: {problem}" for problem in problems]
            if code != -signal.SIGKILL or problems:
                break
        result.outcomes[f"runs that ended with exit {code}"] += 1
        if code:
            result.violations.append(f"kill {result.injected}: resuming ended with {code}")
        result.violations += [f"kill {result.injected}: finally, {p}" for p in scene.final_problems()]
    result.details["undisturbed run"] = f"{whole_run_s:.2f} s"
    return result


def _time(scene: Scene, plant: Plant | None) -> float:
    """Return how long an undisturbed run takes, in seconds."""
    scene.clear()
    started = time.monotonic()
    scene.run(plant)
    return time.monotonic() - started
