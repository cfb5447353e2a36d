"""From settings to a dataset: prepare, open, run the shards, finish. Nobody else knows this order."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sam_engine.annotation.card import CARD, dataset_card
from sam_engine.annotation.checkup import Checkup
from sam_engine.annotation.leases import Event
from sam_engine.annotation.makers import LoadModel, MakeAnnotator
from sam_engine.annotation.plan import Plan, open_run
from sam_engine.annotation.preflight import PreflightReport, preflight
from sam_engine.annotation.preparation import Preparation, prepare
from sam_engine.annotation.preview_files import previews_in, publish_previews
from sam_engine.annotation.report import (
    ERRORS,
    REPORT,
    SessionStats,
    Totals,
    add_up,
    check_accounts,
    closing_notes,
    count_damaged,
    errors_jsonl,
    report_json,
    session_stats,
)
from sam_engine.annotation.run_shards import run_shards
from sam_engine.annotation.worker_speeds import SpeedLog
from sam_engine.config import AutoAnnotateConfig, run_config
from sam_engine.dataset.published import committed_shards
from sam_engine.dataset.schema import SUCCESS
from sam_engine.dataset.shards import shard_sha256, success_json
from sam_engine.errors import ConfigError, ModelLoadError
from sam_engine.inputs.source import short_name
from sam_engine.structures import Partition, ShardReport

if TYPE_CHECKING:
    from sam_engine.modeling.segmenter import Segmenter

log = logging.getLogger(__name__)

TOO_MANY_FAILED = 3
"""Exit code."""

RunEvent = PreflightReport | Plan | Event
"""What a run says while it works: what its preflight found, if it has one; its plan, once; then progress, and
a report for each shard."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How a run ended."""

    output: str
    num_images: int
    """In the manifest."""
    totals: Totals
    session: SessionStats
    given_up: Mapping[int, str]
    """Why, by shard."""
    partition: Partition
    """What this driver was to make of it."""
    num_elsewhere: int
    """Shards of other parts that were open when this one was done."""
    num_previews: int
    notes: Sequence[str]
    """What is worth knowing of the dataset as a whole, a line each."""
    exit_code: int


def annotate_dataset(
    config: AutoAnnotateConfig | None = None,
    on_event: Callable[[RunEvent], object] | None = None,
    *,
    make_model: "Callable[[], Segmenter] | None" = None,
    **settings: Any,
) -> RunSummary:
    """Make a dataset of images, or go on with it: what ``python -m pipelines.auto_annotate`` does.

    ::

        annotate_dataset(input="photos", output="dataset", amg={"points_per_side": 16}, executor="inline")

    Args:
        config: All settings; or give those that differ from the defaults as keywords.
        on_event: Called with the `Plan` when the output is open, then with a `ShardProgress` before each
            image and a `ShardReport` after each shard. What it raises stops the run; the same call goes on.
        make_model: Returns the model; None for the configured one. Picklable, for Ray.
        settings: Fields of `AutoAnnotateConfig`. Its sections are given as such (`AmgConfig`), as mappings,
            or, for ``model``, ``amg`` and ``executor``, as a name. As on the command line ``amg`` is, unless
            given as such, the preset of the model's name with what the mapping changes.

    Returns:
        What the dataset holds now. Look at its ``given_up`` and ``totals.failures``.

    Raises:
        ConfigError: A setting, the input, the checkpoint or the output is wrong; nothing was written.
        LockedError: Another run is writing the output.
        ModelLoadError, WorkerError, ShardError, StorageError: The run cannot go on; the same call resumes it.
    """
    if config is None:
        config = run_config(settings)
    elif settings:
        raise ConfigError(f"give a config or keywords, got both (config and {', '.join(sorted(settings))})")
    with contextlib.ExitStack() as turn:
        preparation = prepare(config, turn)
        with preparation.store.lock(config.partition):
            return run_prepared(preparation, on_event, make_model=make_model, on_open=turn.close)


def run_prepared(
    preparation: Preparation,
    on_event: Callable[[RunEvent], object] | None = None,
    *,
    make_model: "Callable[[], Segmenter] | None" = None,
    make_shards: Callable[[Plan], Generator[Event, None, None]] | None = None,
    on_open: Callable[[], object] = lambda: None,
) -> RunSummary:
    """Open the dataset, make the shards that it lacks, and finish it. The caller holds the store's lock.

    Args:
        preparation: Of the run.
        on_event: As of `annotate_dataset`.
        make_model: As of `annotate_dataset`.
        make_shards: Makes the open shards instead of `run_shards`.
        on_open: Called when the dataset is open: begun, or gone on with.

    Raises:
        SamEngineError: As `annotate_dataset`.
    """
    if preparation.choice.reason:
        log.info("%s", preparation.choice.reason)
    tell, config = on_event or (lambda event: None), preparation.config
    checkup = None
    if make_shards is None and config.preflight.name != "skip":
        checkup = _fly_first(preparation, make_model, tell)
    plan = open_run(preparation)
    on_open()
    tell(plan)
    if make_shards is None:
        factory = dataclasses.replace(worker_factory(plan, make_model), checkup=checkup)
        events = run_shards(
            plan.open_shards,
            factory,
            config.executor,
            device=config.model.device,
            in_child=preparation.choice.in_child,
            by_value=make_model is not None,
            make_cpu_worker=factory.on_cpu(),
        )
    else:
        events = make_shards(plan)
    reports: list[ShardReport] = []
    started, speeds = math.inf, SpeedLog(preparation.store, config.partition)
    in_process = bool(plan.open_shards) and config.executor.name == "inline"
    in_process &= not preparation.choice.in_child
    with _keeping_torch_threads() if in_process else contextlib.nullcontext(), contextlib.closing(events):
        for event in events:
            if isinstance(event, ShardReport):
                reports.append(event)
                speeds.heard(event)
                for note in event.notes:
                    log.warning("shard %d: %s", event.shard.index, note)
                started = min(started, time.monotonic() - event.seconds)
            tell(event)
    return finish(plan, reports, max(0.0, time.monotonic() - started))


@contextlib.contextmanager
def _keeping_torch_threads() -> Iterator[None]:
    """Give the caller's process back the number of threads that it had."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fly_first(
    preparation: Preparation,
    make_model: "Callable[[], Segmenter] | None",
    tell: Callable[[RunEvent], object],
) -> Checkup:
    """Try the machines; return what sick ones are refused by, those that come later among them.

    Raises:
        ConfigError: No dataset is asked for.
        ModelLoadError: No worker is sound.
    """
    if preparation.config.preflight.name == "only":
        raise ConfigError("preflight=only makes no dataset; from Python, call preflight_dataset")
    report, checkup = _preflight(preparation, make_model)
    tell(report)
    if not report.sound:
        raise ModelLoadError(f"no worker is sound: {'; '.join(report.refused[0].problems)}")
    return checkup


def preflight_dataset(
    config: AutoAnnotateConfig, *, make_model: "Callable[[], Segmenter] | None" = None
) -> PreflightReport:
    """Try every machine that would make a dataset, and estimate what it takes; nothing is begun.

    Args:
        config: Of the run.
        make_model: As of `annotate_dataset`.

    Raises:
        ConfigError: A setting, the input, the checkpoint or the output is wrong.
        StorageError: The output cannot be written.
    """
    return _preflight(prepare(config), make_model)[0]


def _preflight(
    preparation: Preparation, make_model: "Callable[[], Segmenter] | None"
) -> tuple[PreflightReport, Checkup]:
    """Call `preflight` with the configured model, or the caller's."""
    load = LoadModel(config=preparation.config, checkpoint=preparation.checkpoint)
    with _keeping_torch_threads():
        return preflight(preparation, make_model or load, make_model or load.on_cpu(precision="fp32"))


def worker_factory(plan: Plan, make_model: "Callable[[], Segmenter] | None" = None) -> MakeAnnotator:
    """Return what builds the workers of a run.

    Args:
        plan: Of the run.
        make_model: Returns the model; None for the configured one. Picklable, for Ray.
    """
    preparation = plan.preparation
    return MakeAnnotator(
        config=preparation.config,
        source=preparation.source,
        store=preparation.store,
        fingerprint=plan.info.fingerprint,
        make_model=make_model or LoadModel(config=preparation.config, checkpoint=preparation.checkpoint),
    )


def finish(plan: Plan, reports: Sequence[ShardReport], seconds: float) -> RunSummary:
    """Write what belongs to a dataset besides its shards, and say how it went.

    A driver of a part writes it only when the shards of all parts are there, as then whatever two of them
    write at once is the same: what one of them wrote of a whole dataset is never replaced by a part's.

    Args:
        plan: Of the run.
        reports: One for each shard that was open.
        seconds: Wall time of the shards.

    Raises:
        ShardError: A published shard is damaged, or images and rows do not add up.
        StorageError: The output cannot be written.
    """
    preparation, store = plan.preparation, plan.preparation.store
    config = preparation.config
    given_up = {report.shard.index: report.error for report in reports if report.error is not None}
    summaries = committed_shards(store, plan.info.fingerprint)
    totals, session = add_up(summaries.values()), session_stats(reports, seconds)
    elsewhere = [
        shard.index
        for shard in plan.shards
        if shard.index not in summaries and not config.partition.holds(shard)
    ]
    check_accounts(plan.shards, summaries, {*given_up, *elsewhere})
    is_complete = totals.num_images == len(plan.manifest)
    is_last = is_complete or config.partition.is_whole
    allowed = config.max_failed_fraction * len(plan.manifest)
    num_damaged = count_damaged(store, summaries) if is_last and totals.num_failed > allowed else 0
    notes = closing_notes(totals, config, num_damaged if num_damaged > allowed else None)
    has_news = is_last and bool(plan.open_shards or not store.has(SUCCESS))
    previews = publish_previews(plan, summaries) if has_news else previews_in(store)
    if (
        is_last and not has_news and preparation.blur is not None
    ):  # an earlier run may have shown what it hides
        publish_previews(plan, summaries)
    if has_news:
        store.replace(ERRORS, errors_jsonl(store, summaries))
        report = report_json(
            totals=totals,
            session=session,
            config=dataclasses.asdict(config),
            versions=plan.info.versions,
            num_images=len(plan.manifest),
            left_out=preparation.account.left_out,
            incomplete=preparation.account.incomplete,
            given_up=given_up,
            random_weights=plan.info.random_weights,
            notes=notes,
        )
        store.replace(REPORT, report)
        card = dataset_card(
            name=short_name(store.describe(), keep_extension=True),
            info=plan.info,
            totals=totals,
            passed_over=list(preparation.account.describe()),
            checkpoint=f"{preparation.checkpoint.name} (sha256 {preparation.checkpoint.sha256})",
            previews=previews,
            manifest=plan.manifest,
            is_blurred=preparation.blur is not None,
        )
        store.replace(CARD, card)
        if is_complete:
            digests = {report.shard.index: report.sha256 for report in reports}
            digests |= {index: shard_sha256(store, index) for index in summaries if not digests.get(index)}
            store.replace(SUCCESS, success_json(summaries, digests, fingerprint=plan.info.fingerprint))
    return RunSummary(
        output=store.describe(),
        num_images=len(plan.manifest),
        totals=totals,
        session=session,
        given_up=given_up,
        partition=config.partition,
        num_elsewhere=len(elsewhere),
        num_previews=len(previews),
        notes=notes,
        exit_code=1 if given_up else TOO_MANY_FAILED if num_damaged > allowed else 0,
    )
