"""Scores as text."""

from dataclasses import replace

from sam_engine.evaluation.grid import Filtered
from sam_engine.evaluation.report import best_thresholds, filter_line, table

PAIR = Filtered(
    pred_iou_thresh=0.4,
    stability_score_thresh=0.75,
    kept_share=0.03,
    kept_iou=0.44,
    kept_good_share=0.47,
    masks_per_image=10.0,
    mask_iou=0.4,
    good_share=0.4,
)
ALL = replace(PAIR, pred_iou_thresh=0.0, stability_score_thresh=0.0, kept_share=1.0, kept_iou=0.19)


def test_table_is_aligned_markdown():
    """Text to the left, numbers to the right, three digits, thousands set apart, nothing as a dash."""
    text = table(("data", "masks", "IoU"), [("a", 12345, 0.5), ("bcdef", 2, None)])

    assert text.splitlines() == [
        "| data  |  masks |   IoU |",
        "|-------|-------:|------:|",
        "| a     | 12,345 | 0.500 |",
        "| bcdef |      2 |     - |",
    ]


def test_filter_line_says_what_thresholds_do():
    """It names the thresholds, both means, and does not call a loss a gain."""
    line = filter_line(ALL, PAIR, 1000)

    assert "predicted IoU > 0.4 and stability >= 0.75: these thresholds raise the mean IoU" in line
    assert "from 0.190 to 0.440" in line
    assert "3.00% of 1,000 candidates" in line
    assert "DO NOT RAISE" in filter_line(PAIR, ALL, 1000)


def test_best_thresholds_for_a_number_of_masks():
    """For each number of masks the pair of the highest IoU that leaves as many; none is named twice."""
    few = replace(PAIR, masks_per_image=3.0, mask_iou=0.6)
    fewer_and_worse = replace(PAIR, masks_per_image=2.5, mask_iou=0.5)

    assert best_thresholds([PAIR, few, fewer_and_worse, ALL], (20, 10, 3, 2)) == [PAIR, few]
