"""What held-out images say of a model."""

from pathlib import Path

import numpy as np

from pipelines import train
from pipelines.config import main
from sam_engine.catalogue import Thresholds
from sam_engine.checkpoints.resolve import resolve_checkpoint
from sam_engine.config import AmgConfig, ModelConfig
from sam_engine.evaluation.grid import find_candidates, summarise
from sam_engine.evaluation.truth import TruthImage
from sam_engine.ops.rle import mask_to_runs
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.held_out import HeldOut
from tests.helpers.drawn_data import write_tar
from tests.helpers.fakes import DiscSegmenter

GRID = AmgConfig(points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0)


def test_recommended_thresholds_are_the_best_that_leave_enough(dataset: PackedDataset):
    """No other pair of the sweep leaves as many masks an image of a higher mean IoU with the truth."""
    model = DiscSegmenter(radii=(30.0, 40.0, 110.0))
    images = [
        TruthImage(
            image_id=0,
            pixels=np.asarray(dataset.image(i)),
            runs=tuple(mask_to_runs(dataset.mask(i, number)) for number in range(dataset.num_masks(i))),
        )
        for i in range(2)
    ]
    found = [find_candidates(model, GRID, image, model.encode([image.pixels])[0]) for image in images]
    sweep = summarise(found, GRID).sweep
    num_masks = sorted({pair.masks_per_image for pair in sweep if pair.masks_per_image})[0]
    enough = [pair for pair in sweep if pair.masks_per_image >= num_masks]

    thresholds = HeldOut(dataset, limit=2, grid=GRID).recommend(model, num_masks)

    [chosen] = [
        pair
        for pair in sweep
        if (pair.pred_iou_thresh, pair.stability_score_thresh)
        == (thresholds.pred_iou_thresh, thresholds.stability_score_thresh)
    ]
    assert chosen.masks_per_image >= num_masks
    assert chosen.mask_iou == max(pair.mask_iou for pair in enough) > min(pair.mask_iou for pair in enough)


def test_too_few_masks_recommend_nothing(dataset: PackedDataset):
    """Where no thresholds leave as many, all masks are kept."""
    thresholds = HeldOut(dataset, limit=1, grid=GRID).recommend(DiscSegmenter(), 10**6)

    assert thresholds == Thresholds(pred_iou_thresh=0, stability_score_thresh=0)


def test_exported_weights_carry_the_thresholds_of_held_out_images(tmp_path: Path):
    """They are what model.checkpoint=FILE then recommends, in place of the catalogue's."""
    settings = [
        f"data.sources=[{write_tar(tmp_path / 'a.tar')}]",
        "data.hold_out=5",
        f"output={tmp_path}/run",
        f"export={tmp_path}/out.safetensors",
        "masks_per_image=1e6",
        "image_size=32",
        "images_per_step=1",
        "prompts_per_image=2",
        "total_steps=1",
        "threads=1",
        "evaluate_images=1",
    ]

    assert main(train.COMMAND, train.run, settings) == 0

    found = resolve_checkpoint(ModelConfig(checkpoint=str(tmp_path / "out.safetensors")))
    assert found.thresholds == Thresholds(pred_iou_thresh=0, stability_score_thresh=0)
