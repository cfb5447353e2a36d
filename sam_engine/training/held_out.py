"""What images that are not trained on say of a model: its scores, and its best thresholds."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from sam_engine.catalogue import Thresholds
from sam_engine.config import AmgConfig
from sam_engine.evaluation.grid import find_candidates, summarise
from sam_engine.evaluation.prompts import evaluate
from sam_engine.evaluation.report import best_thresholds
from sam_engine.evaluation.truth import TruthImage
from sam_engine.modeling.segmenter import Segmenter
from sam_engine.ops.rle import mask_to_runs
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.trainer import Trainer

GRID = AmgConfig(points_per_side=16).with_thresholds(Thresholds())
"""That of ``amg=tiny``."""


@dataclass(frozen=True)
class HeldOut:
    """A packed file of images, of which the first are scored."""

    dataset: PackedDataset
    limit: int
    grid: AmgConfig = GRID
    """Whose masks thresholds are chosen for."""

    def score(self, trainer: Trainer) -> dict[str, float]:
        """Return mean IoU: one centre click, the best of its three answers, and the tight box.

        Scored at the size of training, on images of the size they are packed at.
        """
        with trainer.averaged() as sam:
            scores = evaluate(sam, self._images(), num_random=0)
        return {"click": scores.click_ranked, "oracle": scores.click_oracle, "box": scores.box}

    @torch.no_grad()
    def recommend(self, model: Segmenter, masks_per_image: float) -> Thresholds:
        """Return the thresholds that leave as many masks an image, at the highest mean IoU with the truth.

        Args:
            model: In eval mode.
            masks_per_image: At least so many, after non-maximum suppression. If no thresholds leave as many,
                they are 0 and 0, which keep everything.
        """
        found = [
            find_candidates(model, self.grid, image, model.encode([image.pixels])[0])
            for image in self._images()
        ]
        chosen = best_thresholds(summarise(found, self.grid).sweep, (masks_per_image,))
        if not chosen:
            return Thresholds(pred_iou_thresh=0.0, stability_score_thresh=0.0)
        return Thresholds(
            pred_iou_thresh=chosen[0].pred_iou_thresh, stability_score_thresh=chosen[0].stability_score_thresh
        )

    def _images(self) -> Iterator[TruthImage]:
        """Yield the images with their masks."""
        dataset = self.dataset
        for index in range(min(self.limit, len(dataset))):
            runs = tuple(mask_to_runs(dataset.mask(index, i)) for i in range(dataset.num_masks(index)))
            yield TruthImage(
                image_id=int(dataset.image_ids[index]),
                pixels=np.asarray(dataset.image(index)),
                runs=runs,
            )
