"""Plant known bugs and see that the campaigns find each, and find nothing where there is none."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from .kills import run_kills
from .planted import BUGS
from .powerloss import run_power_loss
from .result import Order, Result
from .scene import Scene
from .syscalls import run_shim
from .zombies import run_zombies

_APPEAR = ("mkdir", "link", "rename", "replace")
"""Calls that make something visible."""

HUNTS: Mapping[str, Callable[[Scene, Order], Result]] = {
    "powerloss": lambda scene, order: run_power_loss(scene, replace(order, names=_APPEAR), resume=False),
    "calls": lambda scene, order: run_shim(scene, replace(order, names=("write",))),
    "zombies": lambda scene, order: run_zombies(scene, replace(order, names=_APPEAR)),
    "kill": run_kills,
}
"""The campaigns, small: at the calls where most goes wrong."""

DEFAULT_FAULTS = 20
"""Of each hunt."""


def run_selftest(scene: Scene, order: Order) -> Result:
    """Hunt for every bug with all campaigns, until one finds it; ``order.limit`` faults in each."""
    result = Result(campaign="selftest")
    order = replace(order, first_only=True, limit=DEFAULT_FAULTS if order.limit is None else order.limit)
    for name, hunt in HUNTS.items():
        found = hunt(scene, order).violations
        result.violations += [f"nothing was planted, but {name} says: {problem}" for problem in found]
    for bug, plant in BUGS.items():
        result.injected += 1
        result.by_kind["bugs planted"] += 1
        for name, hunt in HUNTS.items():
            if found := hunt(scene, replace(order, plant=plant)).violations:
                result.details[bug] = f"found by {name}: {found[0]}"
                result.outcomes["found"] += 1
                break
        else:
            result.violations.append(f"{bug}: planted, and not found")
    return result
