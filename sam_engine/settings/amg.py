"""Settings of the automatic mask generator."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeGuard

from sam_engine.catalogue import Thresholds
from sam_engine.settings.checks import check_setting, check_types


def is_on(threshold: float | None) -> TypeGuard[float]:
    """Return whether a filter by score filters anything: a threshold of 0 or less keeps all."""
    assert threshold is not None, "AmgConfig.with_thresholds() comes before"
    return threshold > 0


@dataclass(frozen=True, kw_only=True)
class AmgConfig:
    """The automatic mask generator. Names and defaults are ``segment_anything``'s, with two exceptions.

    It lacks the last five settings; and here the first two thresholds belong to the model.
    """

    points_per_side: int | None = 32
    """Points along one side of the grid; ``points_per_side**2`` prompts on the whole image."""
    points_per_batch: int = 64
    """Prompts decoded at once. Higher is faster until memory runs out; the masks found stay the same. On a
    CPU datasets are made with 64, whatever stands here."""
    pred_iou_thresh: float | None = None
    """Masks whose predicted IoU is not above this are dropped. 0 or less keeps all. None: what the model
    recommends, 0.88 for vit_*."""
    stability_score_thresh: float | None = None
    """Masks whose stability score is below this are dropped. 0 or less keeps all. None: what the model
    recommends, 0.95 for vit_*."""
    stability_score_offset: float = 1.0
    """Distance of the two cuts of the stability score from the mask threshold, in logits."""
    box_nms_thresh: float = 0.7
    """Box IoU above which the mask of lower predicted IoU is dropped, within one crop."""
    crop_n_layers: int = 0
    """Layers of crops besides the whole image; layer k cuts ``4**k`` crops."""
    crop_nms_thresh: float = 0.7
    """Box IoU above which the mask from the larger crop is dropped, between crops."""
    crop_overlap_ratio: float = 512 / 1500
    """Overlap of neighbouring crops of layer 1, as a fraction of the image's shorter side."""
    crop_n_points_downscale_factor: int = 1
    """Points per side in layer k are ``points_per_side / factor**k``."""
    min_mask_region_area: int = 0
    """Fill holes and remove islands smaller than this many pixels. 0: leave masks alone."""
    max_mask_area_fraction: float = 1.0
    """Drop masks that cover at least this fraction of the image, 0.95 for SA-1B. 1.0 keeps all."""
    drop_small_masks: bool = False
    """Drop masks whose largest component is below ``min_mask_region_area``, as SA-1B did."""
    points_per_row: int | None = None
    """Points from left to right, for a grid of unequal sides; with ``points_per_column``, and in place of
    ``points_per_side``. In layer k as many divided by ``factor**k``."""
    points_per_column: int | None = None
    """Points from top to bottom of such a grid."""
    prompts: str | None = None
    """Table with the prompts of each image, in place of a grid: .csv or .parquet with columns file_name and
    x, y (three masks a point) or x0, y0, x1, y1 (one mask a box), in pixels of the upright image."""

    @property
    def grid(self) -> tuple[int, int] | None:
        """Points from left to right and from top to bottom; None: no regular grid."""
        if self.points_per_row is not None and self.points_per_column is not None:
            return self.points_per_row, self.points_per_column
        return None if self.points_per_side is None else (self.points_per_side, self.points_per_side)

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self, "amg.")
        at_least = (
            ("points_per_side", 1),
            ("points_per_row", 1),
            ("points_per_column", 1),
            ("points_per_batch", 1),
            ("stability_score_offset", 0),
            ("crop_n_layers", 0),
            ("crop_n_points_downscale_factor", 1),
            ("min_mask_region_area", 0),
        )
        for name, low in at_least:
            value = getattr(self, name)
            if value is not None:
                check_setting(f"amg.{name}", value, value >= low, f"at least {low}")
        for name in ("pred_iou_thresh", "stability_score_thresh"):
            value = getattr(self, name)
            check_setting(f"amg.{name}", value, value is None or math.isfinite(value), "a finite number")
        for name in ("box_nms_thresh", "crop_nms_thresh", "crop_overlap_ratio", "max_mask_area_fraction"):
            value = getattr(self, name)
            check_setting(f"amg.{name}", value, 0 <= value <= 1, "in [0, 1]")
        check_setting("amg.crop_n_layers", self.crop_n_layers, self.crop_n_layers <= 4, "at most 4")
        for name in ("crop_n_layers", "points_per_row") if self.prompts is not None else ():
            value = getattr(self, name)
            check_setting(f"amg.{name}", value, not value, "left out with amg.prompts")
        for name, other in (("points_per_row", "points_per_column"), ("points_per_column", "points_per_row")):
            is_paired = (getattr(self, name) is None) == (getattr(self, other) is None)
            value = getattr(self, name)
            check_setting(f"amg.{name}", value, is_paired or value is not None, f"given with amg.{other}")

    def with_thresholds(self, recommended: Thresholds) -> Self:
        """Return the settings with the model's thresholds where none were asked for."""
        missing = {
            each.name: getattr(recommended, each.name)
            for each in fields(recommended)
            if getattr(self, each.name) is None
        }
        return replace(self, **missing) if missing else self

    @property
    def thresholds(self) -> Thresholds:
        """Those asked for; in place of the others, as long as no model has given its own, SAM's."""
        return Thresholds(
            **{
                each.name: getattr(self.with_thresholds(Thresholds()), each.name)
                for each in fields(Thresholds)
            }
        )


AMG_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # The defaults of segment_anything 1.0: 32 x 32 points, one pass over the whole image.
    "default": {},
    # For small things: four times the prompts, and one layer of crops with half as many points along a side.
    "dense": {"points_per_side": 64, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
    # A quarter of the prompts.
    "fast": {"points_per_side": 16},
    # The recipe of SA-1B: crops of 2 x 2 and 4 x 4 with 16 x 16 and 8 x 8 points, small regions cleaned.
    "sa1b": {
        "crop_n_layers": 2,
        "crop_n_points_downscale_factor": 2,
        "min_mask_region_area": 100,
        "max_mask_area_fraction": 0.95,
        "drop_small_masks": True,
    },
    # For the small model on a CPU: a quarter of the prompts, and edges that are softer than those of the ViTs
    # leave islands and holes, which are cleaned. Its thresholds are the model's own, in catalogue.py.
    "tiny": {"points_per_side": 16, "min_mask_region_area": 150},
}
"""What ``amg=NAME`` sets. That of the model's name, if there is one, is taken unless another is asked for."""
