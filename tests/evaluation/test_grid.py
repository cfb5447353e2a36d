"""The mask generator's candidates, thresholds and duplicates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from sam_engine.automatic_mask_generator import SamAutomaticMaskGenerator
from sam_engine.config import AmgConfig
from sam_engine.evaluation.grid import (
    CachedEncoder,
    Candidates,
    filtered,
    find_candidates,
    passing,
    summarise,
    without_duplicates,
)
from sam_engine.evaluation.truth import open_truth
from sam_engine.modeling.segmenter import Segmenter
from tests.helpers.fakes import DiscSegmenter, make_reduced_tiny


def invented(predicted_iou, stability_score, best_iou) -> Candidates:
    """Return candidates of one image with one annotated mask, far from each other."""
    count = len(predicted_iou)
    left = 100 * np.arange(count)
    return Candidates(
        predicted_iou=np.array(predicted_iou, np.float32),
        stability_score=np.array(stability_score, np.float32),
        boxes_xyxy=np.stack([left, left, left + 10, left + 10], axis=1),
        crop_boxes_xywh=np.tile([0, 0, 1000, 1000], (count, 1)),
        ious=np.array(best_iou, float)[:, None],
        truth_areas=np.array([100.0]),
    )


@pytest.mark.parametrize("crop_n_layers", [0, 1])
def test_filtered_candidates_are_the_generators_masks(truth_tar: Path, crop_n_layers: int):
    """What thresholds and suppression leave of the candidates is what the generator itself gives."""
    model = make_reduced_tiny()
    [image] = open_truth(truth_tar).first(1)
    [embedding] = model.encode([image.pixels])
    grid = {"points_per_side": 4, "points_per_batch": 16, "crop_n_layers": crop_n_layers}
    found = find_candidates(model, AmgConfig(**grid), image, embedding)
    config = AmgConfig(
        **grid,
        pred_iou_thresh=float(np.quantile(found.predicted_iou, 0.3)),
        stability_score_thresh=float(np.quantile(found.stability_score, 0.3)),
    )

    keep = passing(found, config.pred_iou_thresh, config.stability_score_thresh)
    rows = without_duplicates(found, keep, found.predicted_iou, config.box_nms_thresh, config.crop_nms_thresh)

    records = SamAutomaticMaskGenerator.from_config(model, config).generate(image.pixels)
    expected = {(r["predicted_iou"], r["stability_score"], *r["bbox"]) for r in records}
    boxes = found.boxes_xyxy.copy()
    boxes[:, 2:] -= boxes[:, :2]
    actual = {
        (float(found.predicted_iou[i]), float(found.stability_score[i]), *boxes[i].tolist()) for i in rows
    }
    assert 0 < len(rows) < len(found.predicted_iou)
    assert actual == expected
    assert len(rows) == len(records)


KEEP_ALL = {"pred_iou_thresh": 0, "stability_score_thresh": 0}


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        pytest.param(DiscSegmenter(radii=(20.0, 30.0, 45.0)), {"box_nms_thresh": 0.5}, id="discs"),
        pytest.param(make_reduced_tiny(), KEEP_ALL | {"min_mask_region_area": 12}, id="cleaned up"),
    ],
)
def test_kept_masks_are_the_generators_compared_with_the_truth(
    truth_tar: Path, model: Segmenter, settings: dict
):
    """Their number, mean IoU and share above 0.5 are those of the generator's masks, pixel by pixel."""
    config = AmgConfig(points_per_side=5, **settings)
    best, number = [], 0
    generator = SamAutomaticMaskGenerator.from_config(model, config)
    images = list(open_truth(truth_tar).first(2))
    for image in images:
        for record in generator.generate(image.pixels):
            mask = mask_utils.decode(record["segmentation"]).astype(bool)
            best.append(max((mask & true).sum() / (mask | true).sum() for true in image.masks))
            number += 1
    found = [find_candidates(model, config, image, model.encode([image.pixels])[0]) for image in images]

    kept = summarise(found, config).kept

    assert kept.masks_per_image == number / 2 > 0
    assert kept.mean_iou == pytest.approx(np.mean(best))
    assert kept.good_share == pytest.approx(np.mean(np.array(best) > 0.5))
    assert kept.calibration is not None


def test_nothing_kept_has_no_calibration():
    """Thresholds that keep nothing give zeros, not an error."""
    kept = summarise([invented([0.1], [0.5], [0.9])], AmgConfig()).kept

    assert (kept.masks_per_image, kept.mean_iou, kept.good_share, kept.calibration) == (0, 0, 0, None)


def test_candidates_are_compared_with_every_truth(truth_tar: Path):
    """IoU with each annotated mask is that of the masks drawn out and counted."""
    [image] = open_truth(truth_tar).first(1)
    model = DiscSegmenter(radii=(32.0, 50.0, 80.0))
    [embedding] = model.encode([image.pixels])

    found = find_candidates(model, AmgConfig(points_per_side=2), image, embedding)

    generator = SamAutomaticMaskGenerator(
        model, points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1
    )
    masks = [record["segmentation"] for record in generator.generate(image.pixels)]
    expected = [[(m & t).sum() / (m | t).sum() for t in image.masks] for m in masks]
    np.testing.assert_allclose(found.ious, expected)
    np.testing.assert_allclose(found.best_iou, np.max(expected, axis=1))
    assert found.ious.shape == (12, 2)


def test_an_image_is_encoded_once(truth_tar: Path):
    """The generator is given the embedding that prompts were answered with; only crops are encoded."""
    [image] = open_truth(truth_tar).first(1)
    model = DiscSegmenter()
    [embedding] = model.encode([image.pixels])
    sizes = []

    class Counting(DiscSegmenter):
        def encode(self, images):
            sizes.extend(image.shape[:2] for image in images)
            return super().encode(images)

    encoder = CachedEncoder(Counting(), image.pixels, embedding)
    SamAutomaticMaskGenerator(encoder, points_per_side=2, crop_n_layers=1).generate(image.pixels)

    assert len(sizes) == 4
    assert (64, 96) not in sizes


def test_thresholds_compare_as_the_generator_does():
    """Predicted IoU must exceed its threshold, stability reach it, in float32; 0 filters nothing."""
    found = invented([0.4, np.nextafter(np.float32(0.4), 1), -0.1], [0.75, 0.75, 0.0], [0.1, 0.9, 0.0])

    assert passing(found, 0.4, 0.75).tolist() == [False, True, False]
    assert passing(found, 0.0, 0.0).tolist() == [True, True, True]


def test_filter_figures_by_hand():
    """Of four candidates thresholds keep two, of mean IoU 0.7; one of them is good."""
    found = invented([0.9, 0.8, 0.2, 0.9], [0.9, 0.9, 0.9, 0.1], [1.0, 0.4, 0.1, 0.0])

    result = filtered([found], AmgConfig(), 0.5, 0.5)

    assert (result.kept_share, result.kept_iou, result.kept_good_share) == pytest.approx((0.5, 0.7, 0.5))
    assert (result.masks_per_image, result.mask_iou) == pytest.approx((2.0, 0.7))


def test_proposals_are_ranked_by_the_mean_of_both_scores():
    """A budget of 100 of 101 proposals leaves out the one whose two scores are lowest together."""
    predicted, stability = np.full(101, 0.5), np.full(101, 0.5)
    predicted[40], stability[40] = 0.9, 0.05  # the best by predicted IoU alone
    found = invented(predicted, stability, np.where(np.arange(101) == 40, 1.0, 0.0))

    scores = summarise([found], AmgConfig())

    assert scores.proposals.average["100"]["all"] == 0
    assert scores.proposals.average["1000"]["all"] == 1
    assert scores.generator.masks_per_image == 0  # segment_anything's thresholds keep nothing here


def test_between_crops_the_smaller_crop_wins():
    """Of one thing found in the image and in a crop, the crop's mask is kept, though it scores lower."""
    found = Candidates(
        predicted_iou=np.array([0.9, 0.8], np.float32),
        stability_score=np.array([1.0, 1.0], np.float32),
        boxes_xyxy=np.array([[10, 10, 50, 50], [10, 10, 50, 51]]),
        crop_boxes_xywh=np.array([[0, 0, 200, 200], [0, 0, 100, 100]]),
        ious=np.zeros((2, 1)),
        truth_areas=np.array([9.0]),
    )

    assert without_duplicates(found, np.array([True, True]), found.predicted_iou, 0.7, 0.7).tolist() == [1]


def test_near_duplicates_are_one_proposal():
    """Boxes of an IoU above 0.9 are, though the generator's own threshold would keep both."""
    found = replace(
        invented([0.9, 0.8, 0.7], [1.0, 1.0, 1.0], [0.6, 0.6, 0.6]),
        boxes_xyxy=np.array([[0, 0, 100, 100], [0, 0, 100, 93], [0, 0, 100, 60]]),
    )

    scores = summarise([found], AmgConfig(pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1.0))

    assert scores.proposals.masks_per_image == 2
    assert scores.generator.masks_per_image == 3


def test_means_are_over_images_and_recall_over_sizes():
    """Four masks of two images are two an image; what is found is counted under its own size."""
    small = invented([0.9, 0.8], [1.0, 1.0], [1.0, 0.0])
    medium = replace(invented([0.9, 0.8], [1.0, 1.0], [0.0, 0.0]), truth_areas=np.array([50.0**2]))

    scores = summarise([small, medium], AmgConfig(pred_iou_thresh=0, stability_score_thresh=0))

    assert (scores.before.masks_per_image, scores.generator.masks_per_image) == (2, 2)
    assert scores.generator.average["100"] == {"all": 0.5, "small": 1.0, "medium": 0.0, "large": None}


def test_the_generator_ranks_by_predicted_iou():
    """Stability filters, but does not order: of duplicates that of the higher predicted IoU is kept."""
    found = replace(
        invented([0.9, 0.8], [0.5, 1.0], [1.0, 0.0]), boxes_xyxy=np.array([[0, 0, 50, 50], [0, 0, 50, 51]])
    )

    scores = summarise([found], AmgConfig(pred_iou_thresh=0, stability_score_thresh=0))

    assert scores.generator.average["100"]["all"] == 1
    assert scores.proposals.average["100"]["all"] == 0
