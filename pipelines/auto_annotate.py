"""Annotate a folder of images: ``python -m pipelines.auto_annotate input=photos output=out``."""

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from sam_engine.annotation.ray_pool import run_shards
from sam_engine.annotation.report import ERRORS, add_up
from sam_engine.annotation.run import Plan, Summary, finish, open_run, prepare, worker_factory
from sam_engine.config import AutoAnnotateConfig
from sam_engine.dataset.previews import PREVIEWS_PREFIX
from sam_engine.structures import ShardReport

from .config import CommandLine, main
from .progress import Progress, set_up_logging

if TYPE_CHECKING:
    from sam_engine.modeling.segmenter import Segmenter

log = logging.getLogger("pipelines.auto_annotate")  # not __name__, which is __main__ under python -m

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


def run(config: AutoAnnotateConfig, make_model: "Callable[[], Segmenter] | None" = None) -> int:
    """Make the dataset, or go on with it; return the exit code.

    Args:
        config: All settings.
        make_model: Returns the model instead of the configured one; picklable.
    """
    set_up_logging(config.log.format)
    preparation = prepare(config)
    with preparation.store.lock(), _stopped_by_signals() as check_signals:
        plan = open_run(preparation)
        _announce(plan)
        reports: list[ShardReport] = []
        started = math.inf
        before = add_up(plan.committed.values())
        events = run_shards(
            plan.open_shards,
            worker_factory(plan, make_model),
            config.executor,
            device=config.model.device,
        )
        progress = Progress(
            total=len(plan.manifest),
            done=before.num_images,
            masks=before.num_masks,
            log_format=config.log.format,
        )
        with progress, contextlib.closing(events):
            for event in events:
                check_signals()
                progress.show(event)
                if isinstance(event, ShardReport):
                    reports.append(event)
                    started = min(started, time.monotonic() - event.seconds)
                    for note in event.notes:
                        log.warning("%s", note)
        summary = finish(plan, reports, max(0.0, time.monotonic() - started))
    print(describe(summary))
    return summary.exit_code


def describe(summary: Summary) -> str:
    """Return what a run prints at its end."""
    totals, session = summary.totals, summary.session
    failures = ", ".join(f"{count} {status}" for status, count in totals.failures.items())
    lines = [
        f"images    {totals.num_images:,} of {summary.num_images:,}",
        f"masks     {totals.num_masks:,}",
        f"failures  {totals.num_failed:,}"
        + (f" ({failures}; see {summary.output}/{ERRORS})" if failures else ""),
    ]
    if session.num_images:
        lines.append(
            f"speed     {session.images_per_second:.2f} images/s, {session.masks_per_second:.1f} masks/s "
            f"on {', '.join(session.devices)}"
        )
    else:
        lines.append("speed     nothing was left to do")
    lines.append(f"dataset   {summary.output}")
    if summary.num_previews:
        lines.append(f"previews  {summary.output}/{PREVIEWS_PREFIX}")
    lines += [f"given up  shard {index}: {reason}" for index, reason in sorted(summary.given_up.items())]
    return "\n".join(lines)


def _announce(plan: Plan) -> None:
    """Log what is about to be done."""
    output = plan.preparation.store.describe()
    if plan.info.random_weights:
        log.warning("random weights: the masks will be meaningless")
    for note in plan.notes:
        log.warning("%s", note)
    done = len(plan.committed)
    log.info(
        "%d images, %d shards, into %s%s",
        len(plan.manifest),
        plan.info.num_shards,
        output,
        f"; {done} shards are done already" if done else "",
    )


class Stopped(BaseException):
    """A signal asked the run to end. Not an Exception: nothing may take it for a bad shard."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[Callable[[], None]]:
    """Turn SIGINT and SIGTERM into `Stopped`; a second one ends the process where it stands.

    Either is safe at any line: what is published is whole, and what is not is done again. Yields a check to
    call now and then, for Python drops what a handler raises while an object is being finalised.
    """
    received: list[int] = []

    def check() -> None:
        if received:
            raise Stopped(received[0])

    def stop(number: int, _: object) -> None:
        received.append(number)
        for other in handlers:
            signal.signal(other, lambda again, _: os._exit(128 + again))
        check()

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    except SystemError:  # what becomes of `Stopped` in native code that does not expect it, as in ray.wait()
        check()
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def stoppable(program: Callable[[], int]) -> int:
    """Return the exit code of a program in which `run` may be stopped by a signal."""
    try:
        return program()
    except (Stopped, KeyboardInterrupt) as stopped:  # the latter before the run has begun
        number = signal.Signals(stopped.number if isinstance(stopped, Stopped) else signal.SIGINT)
        print(f"stopped by {number.name}; the same command goes on from here", file=sys.stderr)
        return 128 + number


def command_line(argv: Sequence[str] | None = None) -> int:
    """Run from a command line; return the exit code."""
    return stoppable(lambda: main(COMMAND, run, argv))


if __name__ == "__main__":
    sys.exit(command_line())
