"""What came out of a run: totals, failures by reason, and the files that say so."""

import json
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sam_engine.catalogue import NO_MODEL
from sam_engine.config import AutoAnnotateConfig
from sam_engine.dataset.reader import read_tables
from sam_engine.dataset.schema import SCALAR_COLUMNS
from sam_engine.dataset.shards import ShardSummary, shard_name
from sam_engine.errors import ShardError
from sam_engine.images.kinds import says_no_image
from sam_engine.storage.store import Store
from sam_engine.structures import ImageStatus, Shard, ShardReport

REPORT = "_meta/report.json"
ERRORS = "_meta/errors.jsonl"


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The whole dataset, from the footers of its shards."""

    num_images: int
    """Published rows."""
    num_masks: int
    num_bytes: int
    statuses: Mapping[str, int]
    """Number of images by status."""

    @property
    def failures(self) -> dict[str, int]:
        """Number of images that could not be used, by status."""
        return {status: count for status, count in self.statuses.items() if ImageStatus(status).is_failure}

    @property
    def num_failed(self) -> int:
        """Images that could not be used."""
        return sum(self.failures.values())


def add_up(summaries: Iterable[ShardSummary]) -> Totals:
    """Return the totals of these shards."""
    statuses: Counter[str] = Counter()
    num_images = num_masks = num_bytes = 0
    for summary in summaries:
        statuses.update(summary.statuses)
        num_images += summary.shard.num_images
        num_masks += summary.num_masks
        num_bytes += summary.num_bytes
    # Every input has one status, in every run; anything else would be a lost image.
    assert sum(statuses.values()) == num_images, (statuses, num_images)
    return Totals(
        num_images=num_images,
        num_masks=num_masks,
        num_bytes=num_bytes,
        statuses=dict(sorted(statuses.items())),
    )


def check_accounts(
    planned: Sequence[Shard], published: Mapping[int, ShardSummary], given_up: Collection[int]
) -> None:
    """Check that inputs are the sum of all statuses, shard by shard: no image without a row, none with two.

    Args:
        planned: All shards that the manifest was cut into.
        published: Those that are there, by index.
        given_up: Indices of those that the run could not make.

    Raises:
        ShardError: A shard is missing for no reason, is not the planned one, or counts its images wrongly.
    """
    for shard in planned:
        images = f"images {shard.start} to {shard.stop - 1}"
        summary = published.get(shard.index)
        if summary is None:
            if shard.index not in given_up:
                raise ShardError(
                    f"{shard_name(shard.index)} with {images} was neither published nor given up"
                )
            continue
        if summary.shard != shard:
            there = f"{summary.shard.start} to {summary.shard.stop - 1}"
            raise ShardError(f"{shard_name(shard.index)} holds images {there}; it was to hold {images}")
        if (counted := sum(summary.statuses.values())) != shard.num_images:
            raise ShardError(f"{shard_name(shard.index)} has {counted} statuses for {images}")
    if unplanned := sorted(published.keys() - {shard.index for shard in planned}):
        raise ShardError(f"{shard_name(unplanned[0])} belongs to no images: there are {len(planned)} shards")


@dataclass(frozen=True, kw_only=True)
class SessionStats:
    """What this process did, as opposed to what the dataset holds."""

    seconds: float
    """Wall time of the shards, without start-up."""
    num_images: int = 0
    num_masks: int = 0
    num_shards: int = 0
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """Of all workers together, by stage."""
    devices: Mapping[str, int] = field(default_factory=dict)
    """Shards by the device that made them."""

    @property
    def images_per_second(self) -> float:
        """0 if nothing was done."""
        return self.num_images / self.seconds if self.seconds else 0.0

    @property
    def masks_per_second(self) -> float:
        """0 if nothing was done."""
        return self.num_masks / self.seconds if self.seconds else 0.0


def session_stats(reports: Sequence[ShardReport], seconds: float) -> SessionStats:
    """Add up the reports of the shards that were made."""
    made = [report for report in reports if report.error is None]
    stages: Counter[str] = Counter()
    for report in made:
        stages.update(report.stage_seconds)
    return SessionStats(
        seconds=seconds,
        num_images=sum(report.shard.num_images for report in made),
        num_masks=sum(report.num_masks for report in made),
        num_shards=len(made),
        stage_seconds={name: round(stages[name], 3) for name in sorted(stages)},
        devices=dict(sorted(Counter(report.device for report in made).items())),
    )


def closing_notes(totals: Totals, config: AutoAnnotateConfig, num_excess: int | None) -> list[str]:
    """Return what is worth knowing of a dataset as a whole, a line each.

    Args:
        totals: Of the dataset.
        config: Of the run.
        num_excess: How many images failed, if those are more than allowed.
    """
    notes = []
    num_annotated = totals.num_images - totals.num_failed
    num_empty = totals.statuses.get(ImageStatus.OK_EMPTY, 0)
    if num_empty * 2 > num_annotated and config.model.name != NO_MODEL:
        thresholds = config.amg.thresholds
        notes.append(
            f"{num_empty:,} of {num_annotated:,} annotated images have no mask: is "
            f"amg.pred_iou_thresh={thresholds.pred_iou_thresh:g} or "
            f"amg.stability_score_thresh={thresholds.stability_score_thresh:g} too high for this model?"
        )
    if num_excess is not None:
        notes.append(
            f"{num_excess:,} of {totals.num_images:,} images failed, more than "
            f"max_failed_fraction={config.max_failed_fraction:g} allows: exit code 3; {ERRORS} names them"
        )
    return notes


def report_json(
    *,
    totals: Totals,
    session: SessionStats,
    config: Mapping[str, Any],
    versions: Mapping[str, str],
    num_images: int,
    left_out: Mapping[str, int],
    incomplete: Sequence[str],
    given_up: Mapping[int, str],
    random_weights: bool,
    notes: Sequence[str],
) -> bytes:
    """Return ``_meta/report.json``: also when, where and by which command line, which no other file says.

    Args:
        totals: Of the dataset so far.
        session: Of this process.
        config: All settings of this process, nested.
        versions: Of libraries.
        num_images: In the manifest.
        left_out: Number of things that the listing of the input passed over, by reason.
        incomplete: Containers of the input that are not whole, a sentence each.
        given_up: Why, by shard.
        random_weights: The model was never trained.
        notes: From `closing_notes`.
    """
    document = {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "command": shlex.join(sys.orig_argv),
        "complete": totals.num_images == num_images,
        "num_images": num_images,
        "num_annotated": totals.num_images - totals.num_failed,
        "num_failed": totals.num_failed,
        "num_masks": totals.num_masks,
        "num_bytes": totals.num_bytes,
        "statuses": dict(totals.statuses),
        "input_left_out": dict(sorted(left_out.items())),
        "input_incomplete": list(incomplete),
        "shards_given_up": {str(index): reason for index, reason in sorted(given_up.items())},
        "random_weights": random_weights,
        "notes": list(notes),
        "session": {
            "num_images": session.num_images,
            "num_masks": session.num_masks,
            "num_shards": session.num_shards,
            "seconds": round(session.seconds, 3),
            "images_per_second": round(session.images_per_second, 4),
            "masks_per_second": round(session.masks_per_second, 2),
            "stage_seconds": dict(session.stage_seconds),
            "devices": dict(session.devices),
        },
        "versions": dict(versions),
        "config": config,
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def errors_jsonl(store: Store, summaries: Mapping[int, ShardSummary]) -> bytes:
    """Return one JSON line for each image that could not be used. Reads only shards that have some."""
    return "".join(json.dumps(row) + "\n" for row in _failed_rows(store, summaries)).encode()


def count_damaged(store: Store, summaries: Mapping[int, ShardSummary]) -> int:
    """Return how many images failed that should not have: all but those of a kind that is not read."""
    return sum(
        row["status"] != ImageStatus.UNSUPPORTED or says_no_image(row["error"] or "")
        for row in _failed_rows(store, summaries)
    )


def _failed_rows(store: Store, summaries: Mapping[int, ShardSummary]) -> Iterator[dict[str, Any]]:
    columns = [name for name in SCALAR_COLUMNS if name in ("image_id", "file_name", "status", "error")]
    for index, summary in sorted(summaries.items()):
        if add_up([summary]).num_failed:
            for table in read_tables(store, shard_name(index), columns):
                yield from (row for row in table.to_pylist() if ImageStatus(row["status"]).is_failure)
