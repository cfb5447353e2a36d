"""Settings of what is tried before a run."""

from dataclasses import dataclass

from sam_engine.settings.checks import check_setting, check_types

PREFLIGHTS = ("skip", "first", "only")


@dataclass(frozen=True, kw_only=True)
class PreflightConfig:
    """Whether every worker's machine is tried before shards are made, and the whole is estimated."""

    name: str = "skip"
    """skip; first: try, estimate, and go on with the workers that are sound; only: and stop."""
    num_images: int = 4
    """Images that each worker annotates for the estimate, spread over the input. More are more certain."""
    price_per_hour: float | None = None
    """Of a worker, in whatever currency: the estimate then has a cost."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self, "preflight.")
        check_setting("preflight.name", self.name, self.name in PREFLIGHTS, f"one of {', '.join(PREFLIGHTS)}")
        check_setting("preflight.num_images", self.num_images, self.num_images >= 1, "at least 1")
        price = self.price_per_hour
        check_setting("preflight.price_per_hour", price, price is None or price >= 0, "at least 0")
