"""The data engine's three stages: whose images, what a training sees, and the table at the end. No torch."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sam_engine.data_engine import METRICS, LoopConfig
from sam_engine.dataset.corrections import Stage
from sam_engine.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Round:
    """One stage, with images of its own and a training after it."""

    number: int
    """From 1."""
    stage: str
    folder: Path

    @property
    def photos(self) -> Path:
        """Its images, as they came."""
        return self.folder / "photos"

    @property
    def dataset(self) -> Path:
        """What was made of them."""
        return self.folder / "dataset"

    @property
    def training(self) -> Path:
        """What was learnt from this and all before."""
        return self.folder / "training"

    @property
    def weights(self) -> Path:
        """The model that the next round works with."""
        return self.training / "model.safetensors"

    @property
    def human(self) -> Stage | None:
        """How people work in it; None: they do not."""
        return {"manual": Stage.MANUAL, "semi": Stage.SEMI}.get(self.stage)


def rounds_of(config: LoopConfig) -> list[Round]:
    """Return the rounds in order."""
    return [
        Round(number=number, stage=stage, folder=Path(config.output) / f"{number}-{stage}")
        for number, stage in enumerate(config.stages, 1)
    ]


def shares(num_images: int, num_rounds: int) -> list[range]:
    """Return which images are whose: runs of equal length, up to one, that hold each image once."""
    ends = [num_images * number // num_rounds for number in range(num_rounds + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(ends)]


def round_training(config: LoopConfig, rounds: Sequence[Round], start: Path) -> TrainConfig:
    """Return the settings of the training after the last of these rounds.

    Args:
        config: Of the loop.
        rounds: Up to the one that it follows; their datasets share ``pseudo_share`` equally, or all of it.
        start: Weights that it starts from: those of the round before.
    """
    labelled = config.labelled_weights or [1.0] * len(config.labelled)
    share = 1.0 if not labelled else config.pseudo_share
    weights = [(1 - share) * weight / sum(labelled) for weight in labelled]
    return replace(
        config.train,
        output=str(rounds[-1].training),
        log=config.log,
        init_checkpoint=str(start),
        seed=config.seeds[0],
        data=replace(
            config.train.data,
            sources=[*config.labelled, *(str(each.dataset) for each in rounds)],
            weights=[*weights, *[share / len(rounds)] * len(rounds)],
        ),
    )


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What a round made and what it was worth."""

    number: int
    stage: str
    images: int
    masks: int
    prompts: int
    """0 where nobody worked."""
    minutes: float
    """Simulated, of the annotator."""
    scores: Mapping[str, Mapping[str, float]]
    """By held-out set, of the weights that were trained after it."""

    @property
    def seconds_per_mask(self) -> float | None:
        """Of the annotator's time, for each mask that was there at the end."""
        return 60 * self.minutes / self.masks if self.minutes and self.masks else None


HEADER = ("round", "images", "masks", "prompts", "minutes", "s a mask")


def stage_table(
    results: Sequence[RoundResult], before: Mapping[str, Mapping[str, float]]
) -> tuple[list[str], list[list[str]]]:
    """Return head and rows: the weights before, then each round with the scores after it."""
    columns = [(heldout, metric) for heldout in before for metric in METRICS]
    head = [*HEADER, *(f"{heldout}, {metric}" for heldout, metric in columns)]

    def scores(of: Mapping[str, Mapping[str, float]]) -> list[str]:
        return [f"{of[heldout][METRICS[metric]]:.3f}" for heldout, metric in columns]

    rows = [["before", *[""] * (len(HEADER) - 1), *scores(before)]]
    for result in results:
        speed = result.seconds_per_mask
        rows.append(
            [
                f"{result.number} {result.stage}",
                f"{result.images:,}",
                f"{result.masks:,}",
                f"{result.prompts:,}",
                f"{result.minutes:.1f}",
                "" if speed is None else f"{speed:.1f}",
                *scores(result.scores),
            ]
        )
    return head, rows


def to_json(results: Sequence[RoundResult], before: Mapping[str, Any]) -> str:
    """Return all of it as JSON."""
    rounds = [vars(result) | {"seconds_per_mask": result.seconds_per_mask} for result in results]
    return json.dumps({"before": before, "rounds": rounds}, indent=2) + "\n"
