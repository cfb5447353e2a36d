"""Every setting of an evaluation, once. No torch, no Hydra."""

from dataclasses import dataclass, field

from sam_engine.config import AmgConfig, LogConfig, ModelConfig
from sam_engine.settings.checks import check_setting, check_types

PARTS = ("prompts", "grid")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Everything one run of ``pipelines.evaluate`` needs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    amg: AmgConfig = field(default_factory=AmgConfig)
    """The mask generator whose grid is decoded and whose thresholds are judged."""
    log: LogConfig = field(default_factory=LogConfig)
    truth: list[str] = field(default_factory=list)
    """Ground truth: SA-1B tars or folders, our datasets, COCO JSON files; each is scored by itself."""
    images: list[str | None] = field(default_factory=list)
    """Where the images of each of ``truth`` are: a COCO file's folder; of a dataset, where its input is now
    if it has moved; null for the others. Empty: null for all."""
    coco_frame: str | None = None
    """upright or stored: what masks of COCO files refer to where sizes do not tell. None: refuse them."""
    corrections: str = "apply"
    """apply, or ignore: what people corrected in datasets of ours."""
    partial: bool = False
    """Take what is there of datasets of ours that are half made; they are refused otherwise."""
    parts: list[str] = field(default_factory=lambda: list(PARTS))
    """prompts: a click and a box for each annotated mask. grid: the mask generator on whole images."""
    ids: list[int] = field(default_factory=list)
    """Score only images with one of these ids. Empty: all."""
    limit: int | None = None
    """Score only the first so many images of each truth."""
    grid_limit: int | None = 40
    """Likewise for the grid, which takes ten times as long. null: as many as for the prompts."""
    random_clicks: int = 1
    """Clicks drawn evenly from each mask, beside the one at its centre."""
    seed: int = 0
    """Of the random clicks; a mask's clicks depend on it, the image's id and the mask's place alone."""
    bins: int = 10
    """Of the calibration, equally wide from 0 to 1."""
    output: str | None = None
    """Folder for scores.json, scores.md and plots. None: only the tables are printed."""
    plots: bool = True
    """Draw plots into ``output``; needs matplotlib (the extra ``plots``)."""
    threads: int = 2
    """CPU threads."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self)
        for part in self.parts:
            check_setting("parts", part, part in PARTS, f"some of {', '.join(PARTS)}")
        check_setting("parts", self.parts, len(self.parts) > 0, f"some of {', '.join(PARTS)}")
        check_setting(
            "images",
            self.images,
            len(self.images) in (0, len(self.truth)),
            "null or a path for each of truth",
        )
        choices = ("upright", "stored", None)
        check_setting("coco_frame", self.coco_frame, self.coco_frame in choices, "upright, stored or null")
        check_setting(
            "corrections", self.corrections, self.corrections in ("apply", "ignore"), "apply or ignore"
        )
        for name in ("limit", "grid_limit"):
            value = getattr(self, name)
            if value is not None:
                check_setting(name, value, value >= 1, "at least 1")
        for name, low in (("random_clicks", 0), ("seed", 0), ("bins", 2), ("threads", 1)):
            value = getattr(self, name)
            check_setting(name, value, value >= low, f"at least {low}")
