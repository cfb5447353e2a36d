"""How the simulated annotator works."""

from dataclasses import dataclass

from sam_engine.settings.checks import check_setting, check_types


@dataclass(frozen=True, kw_only=True)
class OracleConfig:
    """How the simulated annotator works."""

    noise_px: float = 2.0
    """Standard deviation of a click from where it was meant, in pixels; it stays on the thing."""
    enough_iou: float = 0.85
    """Of a mask with the true one: no more clicks."""
    max_clicks: int = 6
    """After which the mask is drawn by hand, a pixel off."""
    keep_iou: float = 0.75
    """Of a mask that was there already with a true one: it is accepted. Below, it is rejected."""
    min_area: int = 100
    """Pixels of a true mask that is noticed."""
    max_masks: int = 30
    """True masks of an image that are drawn, the largest first: people lose patience."""
    seconds_per_mask: float = 10.0
    """To find a thing and to look at the result."""
    seconds_per_click: float = 4.0
    seconds_per_judgement: float = 3.0
    """To accept or reject a mask that was there already."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self, "oracle.")
        for name in (
            "noise_px",
            "min_area",
            "seconds_per_mask",
            "seconds_per_click",
            "seconds_per_judgement",
        ):
            check_setting(f"oracle.{name}", getattr(self, name), getattr(self, name) >= 0, "at least 0")
        for name in ("max_clicks", "max_masks"):
            check_setting(f"oracle.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("enough_iou", "keep_iou"):
            check_setting(f"oracle.{name}", getattr(self, name), 0 < getattr(self, name) <= 1, "in (0, 1]")
