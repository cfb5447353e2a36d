"""Eight drivers that start at once on one empty output, each with its part; some are killed on the way."""

import dataclasses
import random
import signal
import time

from sam_engine.structures import Partition

from .result import Order, Result
from .scene import Scene, kill, wait

DRIVERS = 8
DEFAULT_STARTS = 50


def part_of(scene: Scene, index: int, count: int) -> Scene:
    """Return the scene of a driver of one part."""
    partition = Partition(index=index, count=count)
    return dataclasses.replace(scene, config=dataclasses.replace(scene.config, partition=partition))


def run_drivers(scene: Scene, order: Order) -> Result:
    """Start all of them so many times; what is killed is started again until every driver is done."""
    result = Result(campaign="drivers")
    dice = random.Random(order.seed)
    parts = [part_of(scene, index, DRIVERS) for index in range(DRIVERS)]
    for start in range(1, 1 + (order.limit or DEFAULT_STARTS)):
        scene.clear()
        began = time.monotonic()
        running = {index: part.start(order.plant) for index, part in enumerate(parts)}
        for index in dice.sample(range(DRIVERS), dice.randint(0, 6)):
            time.sleep(dice.uniform(0.0, 0.3))
            if kill(running[index]) == -signal.SIGKILL:
                result.injected += 1
                result.by_kind["SIGKILL"] += 1
            problems = scene.visible_problems()
            result.violations += [f"start {start}: {problem}" for problem in problems]
            running[index] = parts[index].start(order.plant)
        codes = [wait(pid) for pid in running.values()]
        if any(codes):
            result.violations.append(f"start {start}: drivers ended with {codes}")
        result.violations += [f"start {start}: finally, {problem}" for problem in scene.final_problems()]
        result.outcomes["starts of eight drivers"] += 1
        result.details["last start"] = f"{time.monotonic() - began:.1f} s"
        if result.is_enough(order):
            break
    return result
