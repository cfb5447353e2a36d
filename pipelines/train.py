"""Train the small model: ``python -m pipelines.train data.sources=[a.tar,b.tar] output=runs/tiny``."""

if __name__ == "__main__":  # first: what follows takes seconds, and Ctrl-C meanwhile is one line, too
    from sam_engine.compute.signals import quit_at_once

    quit_at_once()

from collections.abc import Sequence

from sam_engine.compute.signals import leave
from sam_engine.training.config import TrainConfig

from .config import CommandLine, main
from .logs import set_up_logging

COMMAND = CommandLine(
    name="train",
    config_class=TrainConfig,
    plain_texts=frozenset(
        {
            "output",
            "export",
            "init_trunk",
            "init_checkpoint",
            "held_out_packed",
            "address",
            "data.packed",
            "data.sources_csv",
        }
    ),
    help="""
Train model tiny on annotated images: clicks, noisy boxes and interactive corrections.

Usage: python -m pipelines.train data.sources=[A.tar,B.tar] [output=RUN] [key=value ...]

  python -m pipelines.train data.sources=[a.tar,b.tar] init_trunk=mobilenet_v2.npz   again, to resume
  python -m pipelines.train data.sources=[out,coco.json] data.images=[null,train2017] held_out=[eval.tar]
  python -m pipelines.train data.sources=[a.tar] data.packed=a.npz data.pack_only=true   one file to carry
  python -m pipelines.train data.packed=a.npz device=cuda precision=bf16 images_per_step=64 total_steps=20000
  python -m pipelines.train data.packed=a.npz device=cuda num_workers=8 images_per_step=256   on Ray

Sources are SA-1B tars or folders, datasets of auto_annotate with people's corrections, and COCO .json files.
Writes last.safetensors (to resume), model.safetensors (averaged weights, for model.checkpoint=),
best.safetensors (those of the best score on held_out), log.csv, scores.csv, events/ (TensorBoard), overlays/,
and config.json, with which `python -m sam_engine.training CONFIG.json` goes on where there is no Hydra.
Flags: --help, --cfg job (print the configuration and stop). Exit codes: 0 done, 1 failed, 2 bad setting,
130 and 143 stopped by a signal, after saving.
""",
)


def run(config: TrainConfig) -> int:
    """Pack what is not packed, then train to the end of the schedule; return the exit code."""
    set_up_logging(config.log.format)
    from sam_engine.training.prepare import prepare_run
    from sam_engine.training.run import run_training

    prepare_run(config)
    if config.data.pack_only:
        return 0
    return run_training(config)


def command_line(argv: Sequence[str] | None = None) -> int:
    """Run from a command line; return the exit code."""
    return main(COMMAND, run, argv)


if __name__ == "__main__":
    leave(command_line())
