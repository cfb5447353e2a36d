"""The scores of an evaluation as text: tables that read well in a terminal and as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sam_engine.evaluation.grid import GOOD_IOU, Filtered, GridScores, Recalls
from sam_engine.evaluation.prompts import PromptScores
from sam_engine.evaluation.recall import AREA_RANGES, MAX_MASKS

MASK_COUNTS = (50, 30, 20, 15, 10, 7, 5, 3, 2, 1)
"""Masks an image for which the best thresholds are looked up."""

Row = Sequence[str | int | float | None]


@dataclass(frozen=True, kw_only=True)
class TruthScores:
    """What was measured on one set of ground truth."""

    prompts: PromptScores | None
    grid: GridScores | None


def describe(scores: Mapping[str, TruthScores], pooled: GridScores | None) -> str:
    """Return all tables.

    Args:
        scores: By name of the ground truth.
        pooled: The grid over the images of all of them; its thresholds are what is chosen from.
    """
    prompts = {name: s.prompts for name, s in scores.items() if s.prompts is not None}
    grids = {name: s.grid for name, s in scores.items() if s.grid is not None}
    sections = []
    if prompts:
        sections += [_clicks(prompts), _boxes(prompts), _trust(prompts)]
    if grids:
        sections += [_recalls(grids), _kept(grids), _candidates(grids)]
    if pooled is not None:
        sections += [_thresholds(pooled), filter_line(pooled.before, pooled.after, pooled.candidates)]
    return "\n\n".join(sections)


def filter_line(before: Filtered, after: Filtered, num_candidates: int) -> str:
    """Return the sentence that says what the generator's thresholds are worth."""
    verb = "raise" if after.kept_iou > before.kept_iou else "DO NOT RAISE"
    thresholds = (
        f"predicted IoU > {after.pred_iou_thresh:g} and stability >= {after.stability_score_thresh:g}"
    )
    return (
        f"Filtering at {thresholds}: these thresholds {verb} the mean IoU with the best annotated mask from "
        f"{before.kept_iou:.3f} to {after.kept_iou:.3f}, and the share of masks of IoU >= {GOOD_IOU} from "
        f"{before.kept_good_share:.1%} to {after.kept_good_share:.1%}. They keep {after.kept_share:.2%} of "
        f"{num_candidates:,} candidates; without duplicates {after.masks_per_image:.1f} masks an image of "
        f"mean IoU {after.mask_iou:.3f}."
    )


def best_thresholds(sweep: Sequence[Filtered], counts: Sequence[float] = MASK_COUNTS) -> list[Filtered]:
    """Return for each number of masks an image the thresholds that leave as many at the highest mean IoU."""
    found: list[Filtered] = []
    for count in counts:
        enough = [pair for pair in sweep if pair.masks_per_image >= count]
        best = max(enough, key=lambda pair: pair.mask_iou, default=None)
        if best is not None and best not in found:
            found.append(best)
    return found


def table(header: Sequence[str], rows: Sequence[Row]) -> str:
    """Return an aligned Markdown table; the first column is text, floats have three digits."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [_line(row, widths) for row in cells]
    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([lines[0], rule, *lines[1:]])


def _clicks(prompts: Mapping[str, PromptScores]) -> str:
    """Return the table of clicks beside image-blind discs."""
    header = ("click", "images", "masks", "ranked", "disc", "oracle", "3 discs", "anywhere", "disc there")
    sizes = ("small", "medium", "large")
    rows = [
        (
            name,
            s.images,
            s.masks,
            s.click_ranked,
            s.disc_ranked,
            s.click_oracle,
            s.disc_oracle,
            s.random_ranked,
            s.disc_random,
            *(s.click_by_area[size] for size in sizes),
        )
        for name, s in prompts.items()
    ]
    return table((*header, *sizes), rows)


def _boxes(prompts: Mapping[str, PromptScores]) -> str:
    """Return the table of boxes beside an image-blind ellipse."""
    rows = [
        (name, s.box, s.ellipse, s.box_calibration.bias + s.box, s.box_calibration.ece)
        for name, s in prompts.items()
    ]
    return table(("box", "mean IoU", "ellipse", "predicted IoU", "ECE"), rows)


def _trust(prompts: Mapping[str, PromptScores]) -> str:
    """Return the table of what the model's own scores of its ranked answers are worth."""
    header = ("ranked answers", "predicted IoU", "actual", "ECE", "correlation", "of stability")
    rows = [
        (
            name,
            s.predicted_iou,
            s.click_ranked,
            s.calibration.ece,
            s.calibration.correlation,
            s.stability.correlation,
        )
        for name, s in prompts.items()
    ]
    return table(header, rows)


def _recalls(grids: Mapping[str, GridScores]) -> str:
    """Return the table of average recall."""
    columns = [f"AR@{budget}" if area == "all" else area for budget in MAX_MASKS for area in AREA_RANGES]
    rows: list[Row] = []
    for name, s in grids.items():
        for label, recalls in (("proposals", s.proposals), ("amg", s.generator)):
            count = f"{recalls.masks_per_image:.1f}"
            rows.append((f"{name}, {label}", s.images, count, *_averages(recalls)))
    return table(("grid", "images", "masks/image", *columns), rows)


def _averages(recalls: Recalls) -> list[float | None]:
    """Return AR in the order of the table's columns."""
    return [recalls.average[str(budget)][area] for budget in MAX_MASKS for area in AREA_RANGES]


def _kept(grids: Mapping[str, GridScores]) -> str:
    """Return the table of the masks that amg's settings leave: how many, and how good."""
    header = ("amg's masks", "images", "masks/image", "mean IoU", f"> {GOOD_IOU}", "predicted IoU", "ECE")
    rows: list[Row] = []
    for name, s in grids.items():
        kept = s.kept
        trust: tuple[float | None, float | None] = (None, None)
        if kept.calibration is not None:
            trust = kept.calibration.bias + kept.mean_iou, kept.calibration.ece
        share = f"{kept.good_share:.1%}"
        rows.append((name, s.images, f"{kept.masks_per_image:.1f}", kept.mean_iou, share, *trust))
    return table(header, rows)


def _candidates(grids: Mapping[str, GridScores]) -> str:
    """Return the table of what both scores of unfiltered candidates are worth."""
    header = ("candidates", "masks", "predicted IoU", "best IoU", "ECE", "correlation", "of stability")
    rows = [
        (
            name,
            s.candidates,
            s.calibration.bias + s.before.kept_iou,
            s.before.kept_iou,
            s.calibration.ece,
            s.calibration.correlation,
            s.stability.correlation,
        )
        for name, s in grids.items()
    ]
    return table(header, rows)


def _thresholds(grid: GridScores) -> str:
    """Return the table to choose thresholds from: the best for each number of masks, and those in force."""
    header = (
        "predicted IoU >",
        "stability >=",
        "kept",
        "their IoU",
        f">= {GOOD_IOU}",
        "masks/image",
        "their IoU",
        f">= {GOOD_IOU}",
    )
    rows = [
        (
            f"{pair.pred_iou_thresh:.2f}" + mark,
            f"{pair.stability_score_thresh:.2f}",
            f"{pair.kept_share:.2%}",
            pair.kept_iou,
            f"{pair.kept_good_share:.0%}",
            f"{pair.masks_per_image:.1f}",
            pair.mask_iou,
            f"{pair.good_share:.0%}",
        )
        for pair, mark in [
            (grid.before, ""),
            *((pair, "") for pair in best_thresholds(grid.sweep)),
            (grid.after, " (amg)"),
        ]
    ]
    return table(header, rows)


def _cell(value: str | int | float | None) -> str:
    """Return a value as it stands in a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else value


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return one row, text to the left and numbers to the right."""
    padded = [cells[0].ljust(widths[0])]
    padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "| " + " | ".join(padded) + " |"
