"""One evaluation: every image is read and encoded once, whatever is measured on it."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sam_engine.amg.mask_finder import thresholds_of
from sam_engine.errors import InputError
from sam_engine.evaluation.config import EvaluateConfig
from sam_engine.evaluation.grid import Candidates, GridScores, find_candidates
from sam_engine.evaluation.grid import summarise as summarise_grid
from sam_engine.evaluation.prompts import PromptAnswers, answer_prompts
from sam_engine.evaluation.prompts import summarise as summarise_prompts
from sam_engine.evaluation.report import TruthScores
from sam_engine.evaluation.truth import Truth, of_ids
from sam_engine.files import new_file, writing_to
from sam_engine.modeling.segmenter import Segmenter

SCORES, TABLES = "scores.json", "scores.md"

Report = Callable[[str, int], None]
"""Called after each image with the name of the truth and the number of its images done."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of a model on some sets of ground truth."""

    scores: dict[str, TruthScores]
    pooled: GridScores | None
    """The grid over all of them together."""

    def to_json(self) -> str:
        """Return everything as JSON."""
        document = asdict(self)
        return json.dumps(document, indent=2) + "\n"


def evaluate_truths(
    model: Segmenter,
    truths: Sequence[Truth],
    config: EvaluateConfig,
    report: Report = lambda name, done: None,
) -> Evaluation:
    """Measure what ``config.parts`` names.

    Raises:
        ConfigError: ``config.ids`` names an image that no truth has.
        InputError: A truth holds no mask, or its annotations contradict its images.
    """
    config = replace(config, amg=config.amg.with_thresholds(thresholds_of(model)))
    scores: dict[str, TruthScores] = {}
    everything: list[Candidates] = []
    for truth in of_ids(truths, config.ids):
        answers: list[PromptAnswers] = []
        candidates: list[Candidates] = []
        for done, (answer, found) in enumerate(_measure(model, truth, config), start=1):
            answers += [] if answer is None else [answer]
            candidates += [] if found is None else [found]
            report(truth.name, done)
        if not answers and not candidates:
            raise InputError(f"{truth.name}: no image of this ground truth has a mask")
        everything += candidates
        scores[truth.name] = TruthScores(
            prompts=summarise_prompts(PromptAnswers.cat(answers), len(answers), bins=config.bins)
            if answers
            else None,
            grid=summarise_grid(candidates, config.amg, bins=config.bins) if candidates else None,
        )
    pooled = summarise_grid(everything, config.amg, bins=config.bins) if everything else None
    return Evaluation(scores=scores, pooled=pooled)


@torch.no_grad()
def _measure(
    model: Segmenter, truth: Truth, config: EvaluateConfig
) -> Iterator[tuple[PromptAnswers | None, Candidates | None]]:
    """Yield what is measured on each image."""
    for number, image in enumerate(truth.first(_num_images(config))):
        with_prompts = "prompts" in config.parts
        with_grid = "grid" in config.parts and (config.grid_limit is None or number < config.grid_limit)
        [embedding] = model.encode([image.pixels])
        answers = candidates = None
        if with_prompts:
            answers = answer_prompts(
                model,
                image,
                embedding,
                num_random=config.random_clicks,
                seed=config.seed,
                stability_offset=config.amg.stability_score_offset,
            )
        if with_grid:
            candidates = find_candidates(model, config.amg, image, embedding)
        yield answers, candidates


def _num_images(config: EvaluateConfig) -> int | None:
    """Return how many images are read at most."""
    if "prompts" in config.parts or config.grid_limit is None:
        return config.limit
    return config.grid_limit if config.limit is None else min(config.limit, config.grid_limit)


def write_scores(output: Path, evaluation: Evaluation, text: str) -> None:
    """Write the scores as JSON and as text; that the JSON is there says that both are whole.

    Raises:
        StorageError: They cannot be written.
    """
    with writing_to(output):
        output.mkdir(parents=True, exist_ok=True)
        for name, content in ((TABLES, text + "\n"), (SCORES, evaluation.to_json())):
            with new_file(output / name) as file:
                file.write(content.encode())


def read_scores(output: Path) -> dict[str, Any]:
    """Return the document that `write_scores` wrote."""
    document: dict[str, Any] = json.loads((output / SCORES).read_text(encoding="utf-8"))
    return document
