"""What a campaign is asked for, and what it reports."""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Fault = TypeVar("Fault")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a campaign is to do."""

    limit: int | None = None
    """How many faults, drawn by ``seed``; None for all there are."""
    seed: int = 0
    images: int = 16
    """In each run."""
    names: Sequence[str] | None = None
    """Only at calls of these names."""
    plant: Callable[[], None] | None = None
    """Puts a bug into every victim."""
    first_only: bool = False
    """One violation is enough."""

    def draw(self, faults: Sequence[Fault]) -> Sequence[Fault]:
        """Return all faults, or some, in their order."""
        if self.limit is None or self.limit >= len(faults):
            return faults
        chosen = random.Random(self.seed).sample(range(len(faults)), self.limit)
        return [faults[index] for index in sorted(chosen)]

    def wants(self, name: str) -> bool:
        """Return whether calls of this name are meant."""
        return self.names is None or name in self.names


@dataclass(kw_only=True)
class Result:
    """Figures of one campaign, and what broke a promise."""

    campaign: str
    injected: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    """What was injected, by kind."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """What came of it: exit codes, mostly."""
    violations: list[str] = field(default_factory=list)
    """One line each; empty if every promise was kept."""
    details: dict[str, Any] = field(default_factory=dict)
    """More figures, by name."""
    skipped: str | None = None
    """Why nothing was done."""
    seconds: float = 0.0

    def is_enough(self, order: Order) -> bool:
        """Return whether there is no need to go on."""
        return order.first_only and bool(self.violations)

    def __str__(self) -> str:
        """One line, and the first violations."""
        if self.skipped:
            return f"{self.campaign}: skipped: {self.skipped}"
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.by_kind.items()))
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        details = ", ".join(f"{key} {value}" for key, value in self.details.items())
        head = (
            f"{self.campaign}: {self.injected} injected ({kinds}); {len(self.violations)} violations; "
            f"{outcomes}{'; ' + details if details else ''}; {self.seconds:.0f} s"
        )
        return "\n".join([head, *(f"  {violation}" for violation in self.violations[:10])])


def timed(campaign: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """Return a campaign's result with the time it took."""
    started = time.monotonic()
    result = campaign(*args, **kwargs)
    result.seconds = round(time.monotonic() - started, 1)
    return result
