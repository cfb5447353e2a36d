"""The stages of ``pipelines.loop``: photos in parts, people simulated, a training and scores after each."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sam_engine.config import AutoAnnotateConfig, ExecutorConfig, ModelConfig
from sam_engine.data_engine import LoopConfig
from sam_engine.errors import InputError
from sam_engine.files import write_atomically
from sam_engine.stages.rounds import (
    Round,
    RoundResult,
    round_training,
    rounds_of,
    shares,
    stage_table,
    to_json,
)

from . import auto_annotate, train

log = logging.getLogger("pipelines.loop")

Scores = Mapping[str, Mapping[str, float]]
Score = Callable[[LoopConfig, str, Path], Scores]
"""Takes the settings, a name and weights; returns scores by held-out set."""


def run_stages(config: LoopConfig, start: Path, score: Score) -> int:
    """Go through the stages; return the exit code. What is done already is passed over."""
    rounds = rounds_of(config)
    _cut_photos(config, rounds)
    weights, before = start, score(config, "before", start)
    results: list[RoundResult] = []
    for each in rounds:
        code = _make_dataset(config, each, weights)
        if code:
            return code
        if each.human is not None:
            log.info("%s: the %s annotates", each.folder.name, config.annotator)
            _annotate(config, each, weights)
        if not is_scored(config, each.folder.name):  # what follows rests on the weights as they are
            log.info("training after %s", each.folder.name)
            code = train.run(round_training(config, rounds[: each.number], weights))
            if code:
                return code
        weights = each.weights
        results.append(_result(each, score(config, each.folder.name, weights)))
        _report(config, results, before)
    return 0


def is_scored(config: LoopConfig, name: str) -> bool:
    """Return whether the scores after a round are there, with which it ends."""
    from sam_engine.evaluation.run import SCORES

    return (Path(config.output) / "scores" / name / SCORES).exists()


def _cut_photos(config: LoopConfig, rounds: Sequence[Round]) -> None:
    """Copy each round's images, as they came, into a folder of its own."""
    from sam_engine.config import DecodeConfig
    from sam_engine.dataset.manifest import build_manifest
    from sam_engine.inputs.open import open_input
    from sam_engine.inputs.source import Account

    source = open_input(config.unlabelled)
    manifest = build_manifest(source.iter_files(Account()), limit=config.limit)
    if len(manifest) < len(rounds):
        raise InputError(f"{config.unlabelled} has {len(manifest)} images, fewer than there are stages")
    for each, share in zip(rounds, shares(len(manifest), len(rounds)), strict=True):
        for entry in manifest.entries(share.start, share.stop):
            path = each.photos / Path(entry.path.decode()).name
            if not path.exists():
                write_atomically(path, source.read(entry, DecodeConfig()))


def _make_dataset(config: LoopConfig, each: Round, weights: Path) -> int:
    """Make the rows of a round: without masks for manual, else with those that the model is sure of."""
    is_bare = each.stage == "manual"
    model = ModelConfig(name="none", device="cpu") if is_bare else _model(config, weights)
    return auto_annotate.run(
        AutoAnnotateConfig(
            input=str(each.photos),
            output=str(each.dataset),
            model=model,
            amg=config.amg,
            executor=ExecutorConfig(name="inline") if is_bare else config.executor,
            log=config.log,
            max_failed_fraction=config.max_failed_fraction,
            previews=0,
        )
    )


def _model(config: LoopConfig, weights: Path) -> ModelConfig:
    return ModelConfig(name=config.model.name, checkpoint=str(weights), device=config.model.device)


def _annotate(config: LoopConfig, each: Round, weights: Path) -> None:
    """Let the oracle work on every image of a round that is not exhaustive yet."""
    import torch

    from sam_engine.build_sam import load_model
    from sam_engine.dataset.correction_log import CorrectionLog, latest_time, read_corrections
    from sam_engine.dataset.corrections import is_exhaustive
    from sam_engine.dataset.reader import open_dataset
    from sam_engine.formats.open import open_source
    from sam_engine.predictor import SamPredictor
    from sam_engine.stages.oracle import NAME, Oracle

    said = read_corrections(each.dataset)
    truth = open_source(str(config.unlabelled))
    places = {truth.image_id(index): index for index in range(len(truth))}
    torch.set_num_threads(config.train.threads)
    predictor = SamPredictor(load_model(_model(config, weights)))
    log_file = CorrectionLog(each.dataset, NAME, after=latest_time(said))
    assert each.human is not None
    oracle = Oracle(predictor, log_file, config.oracle, each.human, config.seeds[0])
    for record in open_dataset(each.dataset).records():
        if record.status.is_failure or is_exhaustive(said.get(record.image_id, ())):
            continue
        if record.image_id in said:  # killed in the middle of it: what was said is taken back
            _take_back(log_file, said[record.image_id])
        number = _number_in(record.path)
        if number not in places:
            raise InputError(f"{config.unlabelled} has no annotations of {record.path.decode()}")
        known = truth.read(places[number])
        oracle.annotate(record, known.pixels, known.masks)


def _take_back(log_file: Any, lines: Sequence[Any]) -> None:
    """Undo every act about an image that counts."""
    from sam_engine.dataset.corrections import Operation, in_force

    for act in dict.fromkeys(line.act for line in in_force(lines)):
        log_file.write([log_file.line(Operation.UNDO, lines[0].image_id, act=act)])


def _number_in(path: bytes) -> int:
    """Return the number in a name such as ``sa_123.jpg``, -1 if there is none."""
    digits = Path(path.decode()).stem.rpartition("_")[2]
    return int(digits) if digits.isdigit() else -1


def _result(each: Round, scores: Scores) -> RoundResult:
    """Return what a round came to, by its dataset and the log of corrections."""
    from sam_engine.dataset.correction_log import read_corrections
    from sam_engine.dataset.correction_report import work_report
    from sam_engine.dataset.corrections import apply_corrections
    from sam_engine.dataset.reader import open_dataset

    dataset, said = open_dataset(each.dataset), read_corrections(each.dataset)
    work = work_report(said)
    return RoundResult(
        number=each.number,
        stage=each.stage,
        images=dataset.num_images,
        masks=sum(len(apply_corrections(row, said.get(row.image_id, ()))) for row in dataset.records()),
        prompts=sum(row["prompts"] for row in work),
        minutes=sum(row["seconds"] for row in work) / 60,
        scores=scores,
    )


def _report(config: LoopConfig, results: Sequence[RoundResult], before: Scores) -> None:
    """Print and write the table of all rounds until now."""
    from sam_engine.evaluation.report import table

    text = table(*stage_table(results, before))
    print(text)
    output = Path(config.output)
    write_atomically(output / "report.md", text + "\n")
    write_atomically(output / "report.json", to_json(results, before))
