"""Answers to one prompt for each annotated mask, beside image-blind guesses. Needs no engine, Hydra or Ray.

N masks of an image, M answers to a prompt, (H, W) pixels of the image.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.evaluation.calibration import Calibration, calibrate
from sam_engine.evaluation.metrics import (
    as_tensor,
    best_discs,
    centre_click,
    disc_ious,
    ellipse_iou,
    mask_iou,
    random_clicks,
    tight_box,
)
from sam_engine.evaluation.recall import AREA_RANGES, in_range
from sam_engine.evaluation.truth import TruthImage
from sam_engine.modeling.segmenter import ImageEmbedding, Segmenter
from sam_engine.ops.masks import calculate_stability_score
from sam_engine.ops.resize import ResizeLongestSide, upscale_logits

PIXELS_AT_ONCE = 2**25
"""Upscaled logits in memory at once: 128 MiB."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptAnswers:
    """IoU of the answers to prompts for N masks, and what the model said of them: columns of float64."""

    area: Floats
    """(N,) of the annotated mask, in pixels."""
    click_ranked: Floats
    """(N,) one click at the centre; the answer of the highest predicted IoU."""
    click_oracle: Floats
    """(N,) the best of the three answers to it."""
    random_ranked: Floats
    """(N, C) the same for each of C clicks anywhere in the mask."""
    random_oracle: Floats
    """(N, C)."""
    box: Floats
    """(N,) the tight box; one answer."""
    predicted_iou: Floats
    """(N,) what the model says of ``click_ranked``."""
    stability_score: Floats
    """(N,) of the mask of ``click_ranked``."""
    box_predicted_iou: Floats
    """(N,) what the model says of ``box``."""
    discs: Floats
    """(N, R) image-blind: discs round the centre click, of R radii."""
    random_discs: Floats
    """(N, C, R)."""
    ellipse: Floats
    """(N,) image-blind: the ellipse inscribed in the box."""

    @staticmethod
    def cat(parts: "list[PromptAnswers]") -> "PromptAnswers":
        """Return the rows of all parts, of which there must be one, in order."""
        names = [field.name for field in fields(PromptAnswers)]
        return PromptAnswers(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        )


@dataclass(frozen=True, kw_only=True)
class PromptScores:
    """Mean IoU over all masks of a data set, each mask prompted by itself."""

    images: int
    masks: int
    click_ranked: float
    """One click at the centre; the answer of the highest predicted IoU."""
    click_oracle: float
    """The best of the three answers to that click."""
    random_ranked: float | None
    """As ``click_ranked``, for clicks anywhere in the mask. None: no such clicks were asked for."""
    random_oracle: float | None
    box: float
    """The tight box; one answer."""
    predicted_iou: float
    """Mean of what the model said of its ranked answers to centre clicks."""
    disc_ranked: float
    """Image-blind: a disc round the centre click, of the best radius for this data."""
    disc_oracle: float
    """Image-blind: the best of three discs."""
    disc_random: float | None
    """Image-blind: a disc round the random clicks, of the best radius for them."""
    ellipse: float
    """Image-blind: the ellipse inscribed in the box."""
    click_by_area: dict[str, float | None]
    """``click_ranked`` of small, medium and large masks by COCO's bounds; None where there are none."""
    calibration: Calibration
    """Of predicted IoU: ranked answers to centre clicks."""
    box_calibration: Calibration
    """Of predicted IoU: answers to boxes."""
    stability: Calibration
    """Stability beside actual IoU: ranked answers to centre clicks. It makes no claim, but should order."""


@torch.no_grad()
def answer_prompts(
    model: Segmenter,
    image: TruthImage,
    embedding: ImageEmbedding | None = None,
    *,
    num_random: int = 1,
    seed: int = 0,
    stability_offset: float = 1.0,
) -> PromptAnswers:
    """Prompt the model for every mask of an image and score the answers at the original resolution.

    Args:
        model: In eval mode.
        image: With its truth.
        embedding: Of the image, if it was encoded already.
        num_random: Clicks in each mask beside the one at its centre.
        seed: Of those; the image's id and the mask's place decide, too, and nothing else.
        stability_offset: Of the stability score, in logits.
    """
    if embedding is None:
        [embedding] = model.encode([image.pixels])
    masks = image.masks
    clicks = np.array(
        [
            [centre_click(mask), *random_clicks(mask, num_random, (seed, image.image_id, place))]
            for place, mask in enumerate(masks)
        ]
    )  # (N, 1 + C, 2)
    boxes = np.array([tight_box(mask) for mask in masks])
    rows = _answers(model, embedding, masks, clicks, boxes, stability_offset)
    discs = np.array([[disc_ious(m, tuple(c)) for c in cs] for m, cs in zip(masks, clicks, strict=True)])
    return PromptAnswers(
        area=image.areas,
        discs=discs[:, 0],
        random_discs=discs[:, 1:],
        ellipse=np.array([ellipse_iou(mask, tuple(box)) for mask, box in zip(masks, boxes, strict=True)]),
        **rows,
    )


def summarise(answers: PromptAnswers, num_images: int, *, bins: int = 10) -> PromptScores:
    """Return the means over all masks."""
    disc_ranked, disc_oracle = best_discs(answers.discs)
    has_random = answers.random_ranked.size > 0
    by_area = {
        name: answers.click_ranked[in_range(answers.area, name)] for name in AREA_RANGES if name != "all"
    }
    return PromptScores(
        images=num_images,
        masks=len(answers.area),
        click_ranked=float(answers.click_ranked.mean()),
        click_oracle=float(answers.click_oracle.mean()),
        random_ranked=float(answers.random_ranked.mean()) if has_random else None,
        random_oracle=float(answers.random_oracle.mean()) if has_random else None,
        box=float(answers.box.mean()),
        predicted_iou=float(answers.predicted_iou.mean()),
        disc_ranked=disc_ranked,
        disc_oracle=disc_oracle,
        disc_random=float(answers.random_discs.mean(axis=(0, 1)).max()) if has_random else None,
        ellipse=float(answers.ellipse.mean()),
        click_by_area={name: float(ious.mean()) if len(ious) else None for name, ious in by_area.items()},
        calibration=calibrate(answers.predicted_iou, answers.click_ranked, bins),
        box_calibration=calibrate(answers.box_predicted_iou, answers.box, bins),
        stability=calibrate(answers.stability_score, answers.click_ranked, bins),
    )


def evaluate(
    model: Segmenter, images: Iterable[TruthImage], *, num_random: int = 1, seed: int = 0, bins: int = 10
) -> PromptScores:
    """Prompt the model for every mask of all images and return the means.

    Raises:
        ValueError: There is no mask.
    """
    parts = [answer_prompts(model, image, num_random=num_random, seed=seed) for image in images]
    if not parts:
        raise ValueError("there is no mask to score")
    return summarise(PromptAnswers.cat(parts), len(parts), bins=bins)


def _answers(
    model: Segmenter,
    embedding: ImageEmbedding,
    masks: list[NDArray[np.bool_]],
    clicks: Floats,
    boxes: Floats,
    stability_offset: float,
) -> dict[str, Floats]:
    """Return the columns of `PromptAnswers` that the model has a part in.

    Args:
        model: In eval mode.
        embedding: Of the image.
        masks: N of (H, W).
        clicks: (N, 1 + C, 2) as (x, y), that at the centre first.
        boxes: (N, 4) XYXY.
        stability_offset: In logits.
    """
    size, num_clicks = embedding.original_size, clicks.shape[1]
    transform = ResizeLongestSide(model.image_size)
    points = torch.from_numpy(transform.apply_coords(clicks, size)).float().to(model.device)
    corners = torch.from_numpy(transform.apply_boxes(boxes, size)).float().to(model.device)
    step = max(1, PIXELS_AT_ONCE // (3 * num_clicks * max(size[0] * size[1], model.image_size**2)))
    parts = []
    for start in range(0, len(masks), step):
        chunk = slice(start, start + step)
        truth = as_tensor(masks[chunk])[:, None].to(model.device)  # (N, 1, H, W)
        coords = points[chunk].flatten(0, 1)[:, None]  # (N * (1 + C), 1, 2)
        labels = torch.ones(coords.shape[:2], device=model.device)
        logits, predicted = model.decode(embedding, point_coords=coords, point_labels=labels)
        logits = _upscale(model, embedding, logits)  # (N * (1 + C), M, H, W)
        actual = mask_iou(
            (logits > model.mask_threshold).unflatten(0, (-1, num_clicks)), truth[:, :, None]
        )  # (N, 1 + C, M)
        predicted = predicted.unflatten(0, (-1, num_clicks))
        best = predicted.argmax(dim=2, keepdim=True)
        ranked, oracle = actual.gather(2, best)[..., 0], actual.amax(dim=2)
        shown = logits[::num_clicks][torch.arange(len(truth), device=logits.device), best[:, 0, 0]]
        stability = calculate_stability_score(shown, model.mask_threshold, stability_offset)
        logits, box_predicted = model.decode(embedding, boxes=corners[chunk], multimask_output=False)
        by_box = mask_iou(_upscale(model, embedding, logits) > model.mask_threshold, truth)
        parts.append(
            {
                "click_ranked": ranked[:, 0],
                "click_oracle": oracle[:, 0],
                "random_ranked": ranked[:, 1:],
                "random_oracle": oracle[:, 1:],
                "box": by_box[:, 0],
                "predicted_iou": predicted[:, 0].gather(1, best[:, 0])[:, 0],
                "stability_score": stability,
                "box_predicted_iou": box_predicted[:, 0],
            }
        )
    return {name: torch.cat([part[name] for part in parts]).double().cpu().numpy() for name in parts[0]}


def _upscale(model: Segmenter, embedding: ImageEmbedding, logits: Tensor) -> Tensor:
    """Return logits (P, M, H, W) at the original resolution."""
    return upscale_logits(logits, model.image_size, embedding.input_size, embedding.original_size)
