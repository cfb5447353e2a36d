"""Annotate a folder of images: ``python -m pipelines.auto_annotate input=photos output=out``."""

if __name__ == "__main__":  # first: what follows takes seconds, and Ctrl-C meanwhile is one line, too
    from sam_engine.compute.signals import quit_at_once

    quit_at_once()

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sam_engine.annotation.plan import Plan
from sam_engine.annotation.preflight import PreflightReport
from sam_engine.annotation.report import ERRORS
from sam_engine.annotation.run import RunEvent, RunSummary, annotate_dataset, preflight_dataset
from sam_engine.compute.signals import leave, stopped_by_signals
from sam_engine.config import AutoAnnotateConfig
from sam_engine.dataset.previews import PREVIEWS_PREFIX
from sam_engine.structures import ImageStatus

from .config import CommandLine, main
from .logs import set_up_logging
from .preflight import preflight_lines
from .progress import Progress

if TYPE_CHECKING:
    from sam_engine.modeling.segmenter import Segmenter

log = logging.getLogger("pipelines.auto_annotate")  # not __name__, which is __main__ under python -m

DAMAGED = frozenset({ImageStatus.CORRUPT, ImageStatus.TRUNCATED})
COMMAND = CommandLine(
    name="auto_annotate",
    config_class=AutoAnnotateConfig,
    plain_texts=frozenset(
        {
            "amg.prompts",
            "image_table",
            "input",
            "output",
            "model.checkpoint",
            "model.sha256",
            "executor.address",
            "privacy.boxes",
        }
    ),
    help="""
Turn images into a Segment Anything dataset: every mask of every image, in Parquet.

Usage: python -m pipelines.auto_annotate [input=PHOTOS] [output=DATASET] [key=value ...]

  python -m pipelines.auto_annotate                               sample photos, bundled model
  python -m pipelines.auto_annotate input=photos output=dataset   a folder; again, to resume
  python -m pipelines.auto_annotate input=photos model=vit_h amg=sa1b
  python -m pipelines.auto_annotate input=photos limit=100 executor=inline amg.points_per_side=8
  python -m pipelines.auto_annotate input=photos preflight=only   try the machines, estimate time and size

Flags: --help, --cfg job (print the configuration and stop), --config-dir DIR (more choices, as YAML),
--config FILE (all settings of a run: its _meta/config.yaml).
Exit codes: 0 done, 1 failed, 2 bad setting, 3 more images failed than allowed, 4 storage, 5 locked by another
run, 130 and 143 stopped by a signal. After 1, 4, 5, 130 and 143 the same command resumes.
""",
)


def run(config: AutoAnnotateConfig, make_model: "Callable[[], Segmenter] | None" = None) -> int:
    """Make the dataset, or go on with it; return the exit code.

    Args:
        config: All settings.
        make_model: Returns the model instead of the configured one; picklable.
    """
    set_up_logging(config.log.format)
    if config.preflight.name == "only":
        with stopped_by_signals():
            report = preflight_dataset(config, make_model=make_model)
        print("\n".join(preflight_lines(report)))
        return 1 if report.refused else 0
    with stopped_by_signals() as check_signals, Progress(config.log.format) as progress:

        def follow(event: RunEvent) -> None:
            check_signals()
            if isinstance(event, PreflightReport):
                for line in preflight_lines(event):
                    log.info("%s", line)
            elif isinstance(event, Plan):
                _announce(event)
                total = sum(shard.num_images for shard in event.part)
                left = sum(shard.num_images for shard in event.open_shards)
                progress.start(total=total, done=total - left)
            else:
                progress.show(event)

        summary = annotate_dataset(config, follow, make_model=make_model)
    print(describe(summary, strict=config.decode.strict))
    return summary.exit_code


def describe(summary: RunSummary, *, strict: bool = False) -> str:
    """Return what a run prints at its end."""
    totals, session = summary.totals, summary.session
    failures = ", ".join(f"{count} {status}" for status, count in totals.failures.items())
    named = "" if summary.num_elsewhere else f"; see {summary.output}/{ERRORS}"
    lines = [
        f"images    {totals.num_images:,} of {summary.num_images:,}",
        f"masks     {totals.num_masks:,}",
        f"failures  {totals.num_failed:,}" + (f" ({failures}{named})" if failures else ""),
    ]
    if strict and not DAMAGED.isdisjoint(totals.failures):
        lines.append(
            "damaged   decode.strict=false, with another output, keeps what is left of JPEGs and cut PNGs"
        )
    if session.num_images:
        lines.append(
            f"speed     {session.images_per_second:.2f} images/s, {session.masks_per_second:.1f} masks/s "
            f"on {', '.join(session.devices)}"
        )
    else:
        lines.append("speed     nothing was left to do")
    if not summary.partition.is_whole:
        is_done = "not done" if summary.given_up else "done"
        lines.append(f"{summary.partition} {is_done}, {summary.num_elsewhere} shards open elsewhere")
    lines.append(f"dataset   {summary.output}")
    if summary.num_previews:
        lines.append(f"previews  {summary.output}/{PREVIEWS_PREFIX}")
    lines += [f"given up  shard {index}: {reason}" for index, reason in sorted(summary.given_up.items())]
    lines += [f"note      {note}" for note in summary.notes]
    return "\n".join(lines)


def _announce(plan: Plan) -> None:
    """Log what is about to be done."""
    output = plan.preparation.store.describe()
    if plan.info.random_weights:
        log.warning("random weights: the masks will be meaningless")
    for note in (*plan.notes, *plan.preparation.account.describe()):
        log.warning("%s", note)
    done, partition = len(plan.published), plan.preparation.config.partition
    log.info(
        "%d images, %d shards%s, into %s%s",
        len(plan.manifest),
        plan.info.num_shards,
        "" if partition.is_whole else f", of which {partition} has {len(plan.part)}",
        output,
        f"; {done} shards are done already" if done else "",
    )


def command_line(argv: Sequence[str] | None = None) -> int:
    """Run from a command line; return the exit code."""
    return main(COMMAND, run, argv)


if __name__ == "__main__":
    leave(command_line())
