"""A simulated annotator: it knows the masks of an image, and clicks until the model's masks are near them.

What it says is written to the log of corrections as a person's would be, with prompts and with the time
that a person would have taken. The time is a model, set so that its ends are those of Kirillov et al. 2023,
"Segment Anything", section 4: 34 s a mask with the first model of their engine, 14 s with the last. Here a
mask that one click gives takes 14 s, and one that six do not give is drawn by hand after 34 s. No torch
before the first click.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from sam_engine.dataset.correction_log import CorrectionLog, new_id
from sam_engine.dataset.corrections import Correction, MaskId, Operation, Prompt, PromptKind, Stage
from sam_engine.dataset.schema import annotation_id
from sam_engine.ops.rle import decode_counts, encode_mask
from sam_engine.settings.oracle import OracleConfig
from sam_engine.structures import ImageRecord

if TYPE_CHECKING:
    from sam_engine.predictor import SamPredictor

NAME = "oracle"
"""Of the annotator, in the log."""
BoolMask = NDArray[np.bool_]


class Oracle:
    """One annotator at work on a dataset. The same seed and image give the same clicks."""

    def __init__(
        self, predictor: "SamPredictor", log: CorrectionLog, config: OracleConfig, stage: Stage, seed: int
    ) -> None:
        """Note what to work with.

        Args:
            predictor: Of the model that answers clicks.
            log: Of the dataset, where all is said.
            config: How to work.
            stage: Whether masks are there already (`Stage.SEMI`) or not (`Stage.MANUAL`).
            seed: Of noise, with the image's id.
        """
        self._predictor = predictor
        self._log = log
        self._config = config
        self._stage = stage
        self._seed = seed

    def annotate(self, record: ImageRecord, pixels: NDArray[np.uint8], truth: Sequence[BoolMask]) -> None:
        """Work on an image until nothing is missing, and say so.

        Args:
            record: Its row.
            pixels: (H, W, 3) uint8 RGB.
            truth: (H, W) each.
        """
        dice = np.random.default_rng([self._seed, record.image_id])
        noticed = sorted((m for m in truth if m.sum() >= self._config.min_area), key=lambda m: -m.sum())
        wanted = noticed[: self._config.max_masks]
        shown = [decode_counts(mask.counts, mask.size) for mask in record.annotations]
        matched = self._judge(record, shown, wanted)
        self._predictor.set_image(pixels)
        for number, mask in enumerate(wanted):
            if number not in matched:
                self._draw(record.image_id, mask, dice)
        self._say(record.image_id, "done", [(Operation.ACCEPT, None, {})], 0.0)

    def _judge(self, record: ImageRecord, shown: Sequence[BoolMask], wanted: Sequence[BoolMask]) -> set[int]:
        """Accept or reject each mask that is there; return which true masks need no other."""
        matched: set[int] = set()
        for number, mask in enumerate(shown):
            mask_id = annotation_id(record.image_id, number)
            ious = {n: iou(mask, true) for n, true in enumerate(wanted) if n not in matched}
            best = max(ious, key=ious.__getitem__, default=None)
            is_right = best is not None and ious[best] >= self._config.keep_iou
            if is_right and best is not None:
                matched.add(best)
            operation = Operation.ACCEPT if is_right else Operation.DELETE
            kind = "accept" if is_right else "reject"
            self._say(record.image_id, kind, [(operation, mask_id, {})], self._config.seconds_per_judgement)
        return matched

    def _draw(self, image_id: int, true: BoolMask, dice: np.random.Generator) -> None:
        """Click until the model's mask is near the true one, or draw it."""
        config = self._config
        points: list[tuple[float, float]] = []
        labels: list[int] = []
        found, previous = np.zeros_like(true), None
        while iou(found, true) < config.enough_iou and len(points) < config.max_clicks:
            missing, excess = true & ~found, found & ~true
            is_missing = missing.sum() >= excess.sum()
            points.append(click_in(missing if is_missing else excess, config.noise_px, dice))
            labels.append(int(is_missing))
            masks, _, logits = self._predictor.predict(
                point_coords=np.array(points),
                point_labels=np.array(labels),
                mask_input=previous,
                multimask_output=len(points) == 1,
            )
            offered = [mask.astype(bool) for mask in masks]
            best = max(range(len(offered)), key=lambda number: iou(offered[number], true))
            found, previous = offered[best], logits[best : best + 1]
        prompts = [
            Prompt(kind=PromptKind.POINT, coords=point, foreground=label == 1)
            for point, label in zip(points, labels, strict=True)
        ]
        if iou(found, true) < config.enough_iou:
            shifted = np.roll(true, dice.integers(-1, 2, 2), axis=(0, 1))
            found = shifted if shifted.any() else true
            prompts.append(Prompt(kind=PromptKind.STROKE))
        said: dict[str, object] = {
            "size": true.shape,
            "counts": encode_mask(found),
            "prompts": tuple(prompts),
        }
        seconds = config.seconds_per_mask + config.seconds_per_click * len(points)
        self._say(image_id, "draw", [(Operation.ADD, new_id(), said)], seconds)

    def _say(
        self,
        image_id: int,
        kind: str,
        lines: Sequence[tuple[Operation, MaskId | None, dict[str, object]]],
        seconds: float,
    ) -> None:
        """Write an act down."""
        act = new_id()
        said: list[Correction] = [
            self._log.line(
                operation,
                image_id,
                mask_id,
                act=act,
                kind=kind,
                stage=self._stage,
                time_s=seconds if number == 0 else None,
                **more,
            )
            for number, (operation, mask_id, more) in enumerate(lines)
        ]
        self._log.write(said)


def iou(one: BoolMask, other: BoolMask) -> float:
    """Return the IoU of two masks; 0 where both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0


def click_in(region: BoolMask, noise_px: float, dice: np.random.Generator) -> tuple[float, float]:
    """Return (x, y) near the point of a region that is farthest from its edge, and in the region."""
    inside = np.pad(region, 1).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    for _ in range(8):
        moved_x, moved_y = np.rint(dice.normal((x, y), noise_px)).astype(int)
        if 0 <= moved_x < region.shape[1] and 0 <= moved_y < region.shape[0] and region[moved_y, moved_x]:
            return float(moved_x), float(moved_y)
    return float(x), float(y)
