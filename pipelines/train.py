"""Train the small model: ``python -m pipelines.train data.tars=[a.tar,b.tar] output=runs/tiny``."""

import logging
import sys
from pathlib import Path

from pipelines.config import CommandLine, main
from sam_engine.errors import ConfigError
from sam_engine.training.config import DataConfig, TrainConfig

COMMAND = CommandLine(
    name="train",
    config_class=TrainConfig,
    plain_texts=frozenset(
        {"output", "export", "init_trunk", "init_checkpoint", "data.packed", "data.sources_csv"}
    ),
    help="""
Train model tiny on SA-1B-format tars: clicks, noisy boxes and interactive corrections.

Usage: python -m pipelines.train data.tars=[A.tar,B.tar] [output=RUN] [key=value ...]

  python -m pipelines.train data.tars=[a.tar,b.tar] init_trunk=mobilenet_v2.npz   again, to resume
  python -m pipelines.train data.tars=[a.tar] data.packed=a.npz data.pack_only=true   one file to carry
  python -m pipelines.train data.packed=a.npz device=cuda precision=bf16 images_per_step=64 total_steps=20000

Writes last.safetensors (to resume), model.safetensors (averaged weights, for model.checkpoint=) and log.csv.
Flags: --help, --cfg job (print the configuration and stop). Exit codes: 0 done, 1 failed, 2 bad setting,
130 and 143 stopped by a signal, after saving.
""",
)

log = logging.getLogger(__name__)


def run(config: TrainConfig) -> int:
    """Pack what is not packed, then train to the end of the schedule; return the exit code."""
    from sam_engine.training.packing import pack

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    packed = Path(config.data.packed or Path(config.output) / "packed.npz")
    if not packed.exists():
        _check_tars(config.data)
        log.info("packing %d tars to %s", len(config.data.tars), packed)
        pack(config.data, packed)
    if config.data.pack_only:
        return 0
    return _train(config, packed)


def _train(config: TrainConfig, packed: Path) -> int:
    """Start or resume the run; return the exit code."""
    import torch

    from sam_engine.training.checkpoint import export_weights
    from sam_engine.training.data import PackedDataset, sample_batch
    from sam_engine.training.initialise import build_initial
    from sam_engine.training.trainer import LAST, WEIGHTS, Trainer, train

    torch.set_num_threads(config.threads)
    dataset = PackedDataset(packed)
    chances = dataset.image_probabilities(config.data)
    trainer = Trainer(build_initial(config), config)
    output = Path(config.output)
    if (output / LAST).exists():
        trainer.resume(output)
    log.info("%d images, step %d of %d, in %s", len(dataset), trainer.step, config.total_steps, output)
    stopped_by = train(trainer, lambda step: sample_batch(dataset, chances, config, step))
    if stopped_by is not None:
        log.info("stopped at step %d; the same command resumes", trainer.step)
        return 128 + stopped_by
    if config.export is not None:
        names = ", ".join(dataset.sources)
        export_weights(
            output / WEIGHTS, Path(config.export), {"data": names, "licence": "see docs/model_card.md"}
        )
    return 0


def _check_tars(config: DataConfig) -> None:
    """Refuse missing files before anything is read."""
    if not config.tars:
        raise ConfigError(
            "data.tars is empty and there is no packed copy; give tars, for example data.tars=[a.tar]"
        )
    missing = [tar for tar in config.tars if not Path(tar).is_file()]
    if missing:
        raise ConfigError(f"data.tars: there is no file {', '.join(missing)}")


if __name__ == "__main__":
    sys.exit(main(COMMAND, run))
