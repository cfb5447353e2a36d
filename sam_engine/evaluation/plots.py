"""The scores of one ground truth as a picture of four panels. Needs matplotlib, the extra ``plots``."""

from pathlib import Path
from typing import TYPE_CHECKING

from sam_engine.evaluation.calibration import Calibration
from sam_engine.evaluation.grid import GridScores
from sam_engine.evaluation.prompts import PromptScores
from sam_engine.evaluation.recall import IOU_THRESHOLDS
from sam_engine.evaluation.report import TruthScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODEL, BLIND, GREY = "#0b6e99", "#d97706", "#8a8f98"


def draw_scores(path: Path, name: str, scores: TruthScores) -> None:
    """Write a PNG: mean IoU by prompt, reliability, recall, and what thresholds would keep."""
    from matplotlib.figure import Figure  # no pyplot: nothing of the process's state is touched

    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
    figure.suptitle(name)
    panels = figure.subplots(2, 2)
    if scores.prompts is not None:
        _draw_prompts(panels[0, 0], scores.prompts)
        _draw_reliability(panels[0, 1], scores.prompts)
    if scores.grid is not None:
        _draw_recall(panels[1, 0], scores.grid)
        _draw_thresholds(panels[1, 1], scores.grid)
    for panel in panels.flat:
        panel.set_visible(panel.has_data())
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_prompts(panel: "Axes", scores: PromptScores) -> None:
    """Draw mean IoU of each kind of prompt beside what sees no pixel."""
    groups = [
        ("centre click", scores.click_ranked, scores.disc_ranked),
        ("best of three", scores.click_oracle, scores.disc_oracle),
        ("click anywhere", scores.random_ranked, scores.disc_random),
        ("box", scores.box, scores.ellipse),
    ]
    shown = [
        (label, model, blind) for label, model, blind in groups if model is not None and blind is not None
    ]
    places = range(len(shown))
    for values, shift, colour, label in (
        ([model for _, model, _ in shown], -0.2, MODEL, "model"),
        ([blind for _, _, blind in shown], 0.2, BLIND, "image-blind (disc, ellipse)"),
    ):
        bars = panel.bar([place + shift for place in places], values, width=0.38, color=colour, label=label)
        panel.bar_label(bars, fmt="%.2f", fontsize=8, padding=1)
    panel.set_xticks(list(places), [label for label, _, _ in shown])
    panel.set(
        ylim=(0, 1), ylabel="mean IoU", title=f"Prompts: {scores.masks:,} masks, {scores.images} images"
    )
    panel.legend(loc="upper left", fontsize=8)


def _draw_reliability(panel: "Axes", scores: PromptScores) -> None:
    """Draw actual IoU over what the model says; dots grow with the number of masks."""
    panel.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="says what is")
    for calibration, colour, label in (
        (scores.calibration, MODEL, f"predicted IoU, click (ECE {scores.calibration.ece:.2f})"),
        (scores.box_calibration, BLIND, f"predicted IoU, box (ECE {scores.box_calibration.ece:.2f})"),
        (scores.stability, "#5b8c3e", f"stability, click (correlation {scores.stability.correlation:.2f})"),
    ):
        x, y, sizes = _dots(calibration)
        panel.plot(x, y, color=colour, linewidth=1, label=label)
        panel.scatter(x, y, s=sizes, color=colour, alpha=0.7, linewidths=0)
    panel.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="actual IoU", title="What scores are worth")
    panel.legend(loc="upper left", fontsize=8)


def _dots(calibration: Calibration) -> tuple[list[float], list[float], list[float]]:
    """Return x, y and area in points of the bins that hold something."""
    filled = [part for part in calibration.bins if part.count]
    total = sum(part.count for part in filled)
    return (
        [part.mean_score for part in filled],
        [part.mean_iou for part in filled],
        [8 + 400 * part.count / total for part in filled],
    )


def _draw_recall(panel: "Axes", scores: GridScores) -> None:
    """Draw recall over the IoU threshold."""
    for recalls, label, colour in (
        (scores.proposals, "proposals", MODEL),
        (scores.generator, "amg", BLIND),
    ):
        for budget, curve in recalls.curve.items():
            average = recalls.average[budget]["all"]
            style = ":" if budget == "100" else "-"
            text = f"{label}: AR@{budget} {average:.3f}"
            panel.plot(IOU_THRESHOLDS, curve, style, color=colour, marker=".", label=text)
    panel.set(
        ylim=(0, 1), xlabel="IoU threshold", ylabel="recall", title=f"Mask generator, {scores.images} images"
    )
    panel.legend(loc="upper right", fontsize=8)


def _draw_thresholds(panel: "Axes", scores: GridScores) -> None:
    """Draw, for every pair of thresholds, how many masks it leaves and how good they are."""
    pairs = [pair for pair in scores.sweep if pair.masks_per_image > 0]
    dots = panel.scatter(
        [pair.masks_per_image for pair in pairs],
        [pair.mask_iou for pair in pairs],
        c=[pair.stability_score_thresh for pair in pairs],
        s=10,
        cmap="viridis",
    )
    panel.figure.colorbar(dots, ax=panel, label="stability threshold")
    after = scores.after
    if after.masks_per_image > 0:
        panel.scatter(
            [after.masks_per_image], [after.mask_iou], s=90, marker="*", color="#c0262d", label="amg"
        )
        panel.legend(loc="upper right", fontsize=8)
    panel.set(
        xscale="log",
        ylim=(0, 1),
        xlabel="masks an image",
        ylabel="mean IoU with the best annotated mask",
        title="Pairs of thresholds",
    )
