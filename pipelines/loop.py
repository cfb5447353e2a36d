"""Annotate, keep what is confident, retrain, measure again: ``python -m pipelines.loop``."""

if __name__ == "__main__":  # first: what follows takes seconds, and Ctrl-C meanwhile is one line, too
    from sam_engine.compute.signals import quit_at_once

    quit_at_once()

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sam_engine.__main__ import called
from sam_engine.checkpoints.resolve import resolve_checkpoint
from sam_engine.compute.signals import leave
from sam_engine.config import AutoAnnotateConfig, ModelConfig
from sam_engine.data_engine import (
    HEADER,
    LoopConfig,
    claim_output,
    compare,
    table_rows,
    training_config,
    verdict,
)
from sam_engine.errors import ConfigError
from sam_engine.evaluation.config import EvaluateConfig
from sam_engine.files import write_atomically

from . import auto_annotate, evaluate, train
from .config import CommandLine, main
from .logs import set_up_logging
from .loop_stages import run_stages

COMMAND = CommandLine(
    name="loop",
    config_class=LoopConfig,
    plain_texts=frozenset({"output", "unlabelled", "model.checkpoint", "model.sha256", "executor.address"}),
    help="""
Close the loop once: the model annotates images, learns from its confident masks, and is measured again.

Usage: python -m pipelines.loop labelled=[A.tar] unlabelled=PHOTOS heldout=[EVAL.tar] [key=value ...]

  python -m pipelines.loop labelled=[train.tar] unlabelled=photos heldout=[eval.tar] output=runs/loop
  python -m pipelines.loop ... model.checkpoint=runs/loop/loop-seed0/model.safetensors output=runs/loop2

The second command goes round again, with what the first one made.

1. annotated/   pipelines.auto_annotate on the unlabelled images; amg's thresholds say what is confident
2. control-*/, loop-*/   pipelines.train from the same weights for the same steps, once with each seed: on the
   labelled images alone, and on these and the annotated ones
3. scores/      pipelines.evaluate of the weights before and of every run, on the held-out images
4. report.md, report.json   before, control, loop, with the spread over seeds

The three stages of the data engine, with a simulated annotator who clicks from the annotations of unlabelled:

  python -m pipelines.loop stages=[manual,semi,auto] annotator=oracle unlabelled=train.tar heldout=[eval.tar]

Each stage takes its part of the images (limit=), trains on what was made so far, and on labelled if there
is any, and is a line of report.md: prompts, simulated minutes, masks, scores. What the annotator says lies in
the corrections of N-STAGE/dataset, as a person's would.

Run it again to go on where it stopped: each stage passes over what is done. Settings of a training: train.*
Flags: --help, --cfg job (print the configuration and stop). Exit codes: 0 done, 1 failed, 2 bad setting,
3 more images failed than allowed, 130 and 143 stopped by a signal.
""",
)

log = logging.getLogger("pipelines.loop")  # not __name__, which is __main__ under python -m


def run(config: LoopConfig) -> int:
    """Go round once; return the exit code."""
    set_up_logging(config.log.format)
    for name in ("unlabelled", "heldout") if config.stages else ("labelled", "unlabelled", "heldout"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is empty; see {called('pipelines.loop')} --help")
    from sam_engine.training.data.provenance import same_content

    for learnt, heldout in same_content([*config.labelled, str(config.unlabelled)], config.heldout):
        raise ConfigError(
            f"{heldout} of heldout is {learnt}, which is learnt from: its scores would mean nothing; leave "
            "it out of one of them"
        )
    start = resolve_checkpoint(config.model).path
    if start is None:
        raise ConfigError("model.checkpoint=random has learnt nothing that it could annotate")
    claim_output(config)
    if config.stages:
        return run_stages(config, start, _scores)

    code = auto_annotate.run(
        AutoAnnotateConfig(
            input=config.unlabelled,
            output=str(config.annotated),
            model=config.model,
            amg=config.amg,
            executor=config.executor,
            log=config.log,
            limit=config.limit,
            max_failed_fraction=config.max_failed_fraction,
        )
    )
    if code:
        return code
    for name in config.runs:
        log.info("training %s", name)
        code = train.run(training_config(config, name, start))
        if code:
            return code
    weights = {"before": start} | {
        name: Path(config.output) / name / "model.safetensors" for name in config.runs
    }
    scores = {name: _scores(config, name, path) for name, path in weights.items()}
    _report(config, scores)
    return 0


def _scores(config: LoopConfig, name: str, weights: Path) -> dict[str, Any]:
    """Return the scores of some weights on each held-out set, measured unless that was done before."""
    from sam_engine.evaluation.run import SCORES, read_scores

    output = Path(config.output) / "scores" / name
    if not (output / SCORES).exists():
        log.info("scoring %s", name)
        evaluate.run(
            EvaluateConfig(
                model=ModelConfig(
                    name=config.model.name, checkpoint=str(weights), device=config.model.device
                ),
                truth=config.heldout,
                parts=["prompts"],
                limit=config.heldout_limit,
                threads=config.train.threads,
                output=str(output),
                log=config.log,
                plots=False,
            )
        )
    return {heldout: scores["prompts"] for heldout, scores in read_scores(output)["scores"].items()}


def _report(config: LoopConfig, scores: dict[str, Any]) -> None:
    """Print and write what the loop was worth."""
    from dataclasses import asdict

    from sam_engine.dataset.reader import open_dataset
    from sam_engine.evaluation.report import table

    dataset = open_dataset(config.annotated)
    comparisons = compare(config, scores)
    text = (
        f"{dataset.num_masks:,} masks on {dataset.num_images:,} images that the model annotated; "
        f"{config.train.total_steps} steps in each arm, {len(config.seeds)} seeds\n\n"
        f"{table(HEADER, table_rows(comparisons))}\n\n{verdict(comparisons)}"
    )
    print(text)
    output = Path(config.output)
    write_atomically(output / "report.md", text + "\n")
    document = {
        "annotated_images": dataset.num_images,
        "annotated_masks": dataset.num_masks,
        "comparisons": [{**asdict(c), "gains": c.gains, "is_clear": c.is_clear} for c in comparisons],
    }
    write_atomically(output / "report.json", json.dumps(document, indent=2) + "\n")


def command_line(argv: Sequence[str] | None = None) -> int:
    """Run from a command line; return the exit code."""
    return main(COMMAND, run, argv)


if __name__ == "__main__":
    leave(command_line())
