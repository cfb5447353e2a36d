"""B: models on the device against the CPU, and every precision against float32."""

from functools import partial

import torch
from torch import Tensor

from sam_engine.modeling.sam import Sam
from sam_engine.ops.masks import calculate_stability_score

from .ledger import Finding, Step
from .subjects import Subjects, cpu_twin, grid_prompts

NAMES = ("tiny", "vit_b", "vit_h")
MIN_PIXELS = 300
"""Of the low-resolution ones: of less, two are already a hundredth."""
GOOD_SHARE = 0.99
"""Of masks that pass the filters, those whose IoU with float32's is 0.99 or more."""


def steps(subjects: Subjects) -> list[Step]:
    """Return the steps of the letter."""
    return [Step(letter="B", name=name, work=partial(compare, subjects, name)) for name in NAMES]


def compare(subjects: Subjects, name: str, found: Finding) -> None:
    """Answers of a model to a grid of clicks: on a CPU, in float32, and in each precision below it."""
    features, logits, scores = answers(subjects, subjects.model(name))
    chosen = _chosen(subjects, name, logits, scores)
    good_share = 0.5 if subjects.is_dry else GOOD_SHARE  # of a dozen masks one more or less is a lot
    found.facts["masks that pass the filters"] = int(chosen.sum())
    found.hold("some masks pass the filters", bool(chosen.any()))
    found.hold("all numbers are finite", all(bool(x.isfinite().all()) for x in (features, logits, scores)))
    if name != "vit_h":
        theirs = answers(subjects, cpu_twin(subjects.model(name)))
        apart = float((features - theirs[0]).abs().max() / theirs[0].abs().max())
        share = share_alike(logits, theirs[1], chosen)
        found.facts |= {"fp32: features apart from the CPU's": apart, "masks like the CPU's": share}
        found.hold("fp32 is the CPU's", apart < 1e-3 and share >= good_share)
    for precision in ("tf32", "fp16", "bf16"):
        told = answers(subjects, subjects.model(name, precision))
        num_bad = sum(int((~x.isfinite()).sum()) for x in told)
        share = share_alike(told[1], logits, chosen)
        score = float((told[2] - scores).abs().max())
        found.facts |= {f"{precision}: masks like fp32's": share, f"{precision}: scores apart": score}
        found.hold(f"{precision} is finite: {num_bad} numbers are not", num_bad == 0)
        if precision == "fp16":
            found.hold(f"{good_share:.0%} of the masks in fp16 are fp32's", share >= good_share)


@torch.no_grad()
def answers(subjects: Subjects, sam: Sam) -> tuple[Tensor, Tensor, Tensor]:
    """Return features (B, C, h, w), logits (N, 4h, 4w) and scores (N,) of grids of clicks, on the CPU."""
    features, logits, scores = [], [], []
    for seed in range(1 if subjects.is_dry else 2):
        image = subjects.image(683, 1024, seed)
        [embedding] = sam.encode([image])
        maps, iou = sam.decode(embedding, **grid_prompts(sam, image, 4 if subjects.is_dry else 16))
        features.append(embedding.features.cpu())
        logits.append(maps.flatten(0, 1).cpu())
        scores.append(iou.flatten().cpu())
    return torch.cat(features), torch.cat(logits), torch.cat(scores)


def _chosen(subjects: Subjects, name: str, logits: Tensor, scores: Tensor) -> Tensor:
    """Return which masks pass both filters, (N,) bool."""
    config = subjects.config(name)
    stable = calculate_stability_score(logits, 0.0, 1.0) >= config.stability_score_thresh
    large = (logits > 0).sum(dim=(1, 2)) > (20 if subjects.is_dry else MIN_PIXELS)
    return (scores > config.pred_iou_thresh) & stable & large


def share_alike(logits: Tensor, expected: Tensor, chosen: Tensor) -> float:
    """Return the share of chosen masks (N,) whose IoU with the expected ones is at least 0.99."""
    ours, theirs = (x[chosen] > 0 for x in (logits, expected))
    iou = (ours & theirs).sum(dim=(1, 2)) / (ours | theirs).sum(dim=(1, 2)).clamp(min=1)
    return float((iou >= 0.99).float().mean())
