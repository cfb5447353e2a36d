"""Score a model on ground truth: ``python -m pipelines.evaluate truth=[eval.tar]``."""

if __name__ == "__main__":  # first: what follows takes seconds, and Ctrl-C meanwhile is one line, too
    from sam_engine.compute.signals import quit_at_once

    quit_at_once()

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sam_engine.compute.signals import leave
from sam_engine.errors import ConfigError
from sam_engine.evaluation.config import EvaluateConfig

from .config import CommandLine, main
from .logs import set_up_logging

if TYPE_CHECKING:
    from sam_engine.evaluation.run import Evaluation
    from sam_engine.evaluation.truth import Truth

COMMAND = CommandLine(
    name="evaluate",
    config_class=EvaluateConfig,
    plain_texts=frozenset({"output", "model.checkpoint", "model.sha256"}),
    after_signal="the same command starts again",
    help="""
Score a model on ground truth at full resolution: clicks, boxes, the mask generator, and its own scores.

Usage: python -m pipelines.evaluate truth=[EVAL.tar] [output=DIR] [model=tiny] [key=value ...]

  python -m pipelines.evaluate truth=[eval-coco.tar,eval-bsds.tar]    the bundled model
  python -m pipelines.evaluate truth=[eval.tar] parts=[prompts] model.checkpoint=runs/tiny/model.safetensors
  python -m pipelines.evaluate truth=[instances_val2017.json] images=[val2017] model=vit_b limit=500
  python -m pipelines.evaluate truth=[eval.tar] ids=[12,40,41] grid_limit=null    these images alone
  python -m pipelines.evaluate truth=[a.tar,b.tar] parts=[grid] grid_limit=12    thresholds for amg

Truth is an SA-1B tar or folder, a dataset of pipelines.auto_annotate, or a COCO file.

click   mean IoU of one click in each mask's centre: the answer ranked first, and the best of three (oracle);
        beside them a disc round the click that sees no pixel, of the best radius for these data, and the
        best of three such discs; then clicks anywhere in the mask; then ranked answers by COCO's sizes
box     mean IoU of the answer to the tight box, beside the ellipse inscribed in it, which sees no pixel
ranked  what predicted IoU and stability are worth: expected calibration error, correlation with actual IoU
grid    average recall (IoU .5:.05:.95) of 100 and 1000 masks an image: of unfiltered proposals, and of the
        masks that amg's settings leave; by COCO's sizes
kept    the masks that amg's settings leave, as a dataset would get them: how many, their mean IoU with the
        best annotated mask, the share above 0.5 (precision, where everything is annotated), predicted IoU
The last table and line say what amg's thresholds do, and the best thresholds for each number of masks.
Flags: --help, --cfg job (print the configuration and stop). Exit codes: 0 done, 1 failed, 2 bad setting,
130 and 143 stopped by a signal.
""",
)


def run(config: EvaluateConfig) -> int:
    """Score every truth, print tables and write the scores; return the exit code."""
    set_up_logging(config.log.format)
    if not config.truth:
        raise ConfigError("truth is empty; give ground truth, for example truth=[eval-coco.tar]")
    wants_plots = config.output is not None and config.plots
    if wants_plots and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("plots need matplotlib: pip install matplotlib, or say plots=false")
    from sam_engine.evaluation.truth import of_ids, open_truth
    from sam_engine.formats.source import READ_SETTINGS

    images = config.images or [None] * len(config.truth)
    truths = [
        open_truth(path, place, **{name: getattr(config, name) for name in READ_SETTINGS})
        for path, place in zip(config.truth, images, strict=True)
    ]
    truths = of_ids(truths, config.ids)
    names = [truth.name for truth in truths]
    if len(set(names)) < len(names):
        raise ConfigError(f"truth: names must differ to be told apart, got {', '.join(names)}")

    evaluation = _evaluate(truths, config)
    from sam_engine.evaluation.report import describe
    from sam_engine.evaluation.run import write_scores

    text = describe(evaluation.scores, evaluation.pooled)
    print(text)
    if config.output is not None:
        output = Path(config.output)
        write_scores(output, evaluation, text)
        if wants_plots:
            from sam_engine.evaluation.plots import draw_scores

            for name, scores in evaluation.scores.items():
                draw_scores(output / f"{name}.png", name, scores)
        print(f"\nscores    {output}")
    return 0


def _evaluate(truths: "Sequence[Truth]", config: EvaluateConfig) -> "Evaluation":
    """Load the model and measure, with a bar on stderr."""
    import torch
    from tqdm import tqdm

    from sam_engine.build_sam import load_model
    from sam_engine.evaluation.run import evaluate_truths

    torch.set_num_threads(config.threads)
    model = load_model(config.model)
    total = sum(min(len(truth), config.limit or len(truth)) for truth in truths)
    with tqdm(total=total, unit="image", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:

        def report(name: str, done: int) -> None:
            bar.set_description(name, refresh=False)
            bar.update()

        return evaluate_truths(model, truths, config, report)


def command_line(argv: Sequence[str] | None = None) -> int:
    """Run from a command line; return the exit code."""
    return main(COMMAND, run, argv)


if __name__ == "__main__":
    leave(command_line())
