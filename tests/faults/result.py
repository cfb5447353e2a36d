"""What a campaign reports."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


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
