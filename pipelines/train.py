"""Train the small model: ``python -m pipelines.train data.sources=[a.tar,b.tar] output=runs/tiny``."""

import logging
import sys

from pipelines.config import CommandLine, main
from sam_engine.errors import ConfigError
from sam_engine.training.config import TrainConfig

COMMAND = CommandLine(
    name="train",
    config_class=TrainConfig,
    plain_texts=frozenset(
        {"output", "export", "init_trunk", "init_checkpoint", "data.packed", "data.sources_csv"}
    ),
    help="""
Train model tiny on annotated images: clicks, noisy boxes and interactive corrections.

Usage: python -m pipelines.train data.sources=[A.tar,B.tar] [output=RUN] [key=value ...]

  python -m pipelines.train data.sources=[a.tar,b.tar] init_trunk=mobilenet_v2.npz   again, to resume
  python -m pipelines.train data.sources=[a.tar] data.packed=a.npz data.pack_only=true   one file to carry
  python -m pipelines.train data.packed=a.npz device=cuda precision=bf16 images_per_step=64 total_steps=20000

Writes last.safetensors (to resume), model.safetensors (averaged weights, for model.checkpoint=), log.csv, and
config.json, with which `python -m sam_engine.training CONFIG.json` goes on on a machine that has no Hydra.
Flags: --help, --cfg job (print the configuration and stop). Exit codes: 0 done, 1 failed, 2 bad setting,
130 and 143 stopped by a signal, after saving.
""",
)

log = logging.getLogger(__name__)


def run(config: TrainConfig) -> int:
    """Pack what is not packed, then train to the end of the schedule; return the exit code."""
    from sam_engine.training.packing import pack
    from sam_engine.training.run import packed_path, run_training, write_config

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    packed = packed_path(config)
    if config.data.stream:
        if config.data.pack_only:
            raise ConfigError("data.pack_only makes a packed copy, which data.stream does without; give one")
    elif not packed.exists():
        if not config.data.sources and not config.data.region_sources:
            raise ConfigError(
                "data.sources is empty and there is no packed copy; give one, as in data.sources=[a.tar]"
            )
        log.info("packing %d sources to %s", len(config.data.sources), packed)
        pack(config.data, packed)
    write_config(config)
    if config.data.pack_only:
        return 0
    return run_training(config)


if __name__ == "__main__":
    sys.exit(main(COMMAND, run))
