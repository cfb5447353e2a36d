"""Settings of what pictures must not show."""

from dataclasses import dataclass

from sam_engine.settings.checks import check_setting, check_types

BLURS = ("none", "boxes", "faces")


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """What pictures that a dataset holds or is shown with must not show. Sources are never changed."""

    blur: str = "none"
    """none; boxes: what a table says; faces: those that a detector finds (extra ``faces``)."""
    boxes: str | None = None
    """That table: .csv or .parquet with columns file_name, x, y, width, height, in pixels of the upright
    image."""

    def __post_init__(self) -> None:
        """Check types, then the choice. `check_pair` is for when both settings are there."""
        check_types(self, "privacy.")
        check_setting("privacy.blur", self.blur, self.blur in BLURS, f"one of {', '.join(BLURS)}")

    def check_pair(self) -> None:
        """Raise `ConfigError` unless there is a table where one is needed, and only there.

        Not on construction: a command line gives paths last, for they may hold any character.
        """
        is_paired = (self.blur == "boxes") == (self.boxes is not None)
        check_setting("privacy.boxes", self.boxes, is_paired, "given with privacy.blur=boxes, and only then")
