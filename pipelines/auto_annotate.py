"""Annotate a folder of images: ``python -m pipelines.auto_annotate input=photos output=out``."""

import sys

from pipelines.config import CommandLine, main
from sam_engine.config import AutoAnnotateConfig

COMMAND = CommandLine(
    name="auto_annotate",
    config_class=AutoAnnotateConfig,
    plain_texts=frozenset({"input", "output", "model.checkpoint", "model.sha256", "executor.address"}),
    help="""
Turn images into a Segment Anything dataset: every mask of every image, in Parquet.

Usage: python -m pipelines.auto_annotate [input=PHOTOS] [output=DATASET] [key=value ...]

  python -m pipelines.auto_annotate                               sample photos, bundled model
  python -m pipelines.auto_annotate input=photos output=dataset   a folder; again, to resume
  python -m pipelines.auto_annotate input=photos model=vit_h amg=sa1b
  python -m pipelines.auto_annotate input=photos limit=100 executor=inline amg.points_per_side=8

Flags: --help, --cfg job (print the configuration and stop), --config-dir DIR (more choices, as YAML).
Exit codes: 0 done, 1 failed, 2 bad setting, 3 more images failed than allowed, 4 storage, 5 locked by another
run, 130 and 143 stopped by a signal. After 1, 4, 5, 130 and 143 the same command resumes.
""",
)


def run(config: AutoAnnotateConfig) -> int:
    """Do what the configuration says; return the exit code."""
    print(config)
    return 0


if __name__ == "__main__":
    sys.exit(main(COMMAND, run))
