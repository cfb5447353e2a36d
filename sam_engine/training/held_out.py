"""Scores of the averaged weights on images that are not trained on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sam_engine.evaluation.prompts import evaluate
from sam_engine.evaluation.truth import TruthImage
from sam_engine.ops.rle import mask_to_runs
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.trainer import Trainer


@dataclass(frozen=True)
class HeldOut:
    """A packed file of images, of which the first are scored."""

    dataset: PackedDataset
    limit: int

    def score(self, trainer: Trainer) -> dict[str, float]:
        """Return mean IoU: one centre click, the best of its three answers, and the tight box.

        Scored at the size of training, on images of the size they are packed at.
        """
        with trainer.averaged() as sam:
            scores = evaluate(sam, self._images(), num_random=0)
        return {"click": scores.click_ranked, "oracle": scores.click_oracle, "box": scores.box}

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
