"""Whether a score means what it says: reliability by bins."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sam_engine.evaluation.metrics import correlation

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The masks whose score falls into one interval."""

    low: float
    high: float
    count: int
    mean_score: float
    """0 where there are none."""
    mean_iou: float
    """What they turned out to be; 0 where there are none."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A score beside the IoU that it stands for, over N masks."""

    bins: tuple[ReliabilityBin, ...]
    """Equally wide from 0 to 1, lowest first. Scores outside are counted in the bin at that end."""
    ece: float
    """Expected calibration error: mean over all masks of the distance of their bin's mean score from its mean
    IoU. Source: Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"."""
    bias: float
    """Mean score less mean IoU: above 0 the model flatters itself."""
    correlation: float
    """Pearson's, between score and IoU."""


def calibrate(scores: Floats, ious: Floats, num_bins: int = 10) -> Calibration:
    """Compare scores (N,) with actual IoU (N,); N must not be 0."""
    places = np.clip((np.asarray(scores) * num_bins).astype(int), 0, num_bins - 1)
    counts = np.bincount(places, minlength=num_bins)
    filled = np.maximum(1, counts)
    mean_scores = np.bincount(places, weights=scores, minlength=num_bins) / filled
    mean_ious = np.bincount(places, weights=ious, minlength=num_bins) / filled
    return Calibration(
        bins=tuple(
            ReliabilityBin(
                low=i / num_bins,
                high=(i + 1) / num_bins,
                count=int(counts[i]),
                mean_score=float(mean_scores[i]),
                mean_iou=float(mean_ious[i]),
            )
            for i in range(num_bins)
        ),
        ece=float(np.abs(mean_scores - mean_ious) @ counts / counts.sum()),
        bias=float(np.mean(scores) - np.mean(ious)),
        correlation=correlation(np.asarray(scores), np.asarray(ious)),
    )
