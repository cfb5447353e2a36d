"""How far a dataset is, from its store alone: no driver is asked, so it may run anywhere, or nowhere."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sam_engine.annotation.report import add_up
from sam_engine.annotation.worker_speeds import WorkerSpeed, worker_speeds
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX, SUCCESS
from sam_engine.dataset.shards import shard_name

WINDOW_S = 3600.0
"""Speed is that of the last hour in which shards were published, in seconds."""
NUM_SLOWEST = 3


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is there, and how fast it came."""

    output: str
    is_finished: bool
    """It has its ``_SUCCESS.json``."""
    num_shards: int
    num_shards_planned: int
    num_images: int
    num_images_planned: int
    num_masks: int
    failures: Mapping[str, int]
    """Number of images that could not be used, by status."""
    images_per_second: float | None
    """Of all drivers together; None where too few shards tell."""
    masks_per_second: float | None
    seconds_left: float | None
    """At this speed; None where it is not known, 0 where nothing is left."""
    slowest: Sequence[WorkerSpeed]
    """`NUM_SLOWEST` of the workers that drivers wrote of within `WINDOW_S` before the newest shard."""
    num_workers: int
    """That did; 0 while nothing is known of them."""
    median_images_per_second: float | None
    """Of these workers."""
    seconds_since_last: float | None
    """Age of the newest shard; None: there is none. Much more than a shard takes: nobody is at work."""


def status_of(dataset: Dataset, now: float) -> Status:
    """Return how far a dataset is. Reads footers and times of its shards, no rows.

    Args:
        dataset: Freshly opened; it may be written meanwhile.
        now: Seconds since 1970.

    Raises:
        ShardError: A shard is damaged or foreign.
    """
    shards = dataset.shards
    totals = add_up(shards.values())
    listed = {each.name: each.modified for each in dataset.store.scan(ANNOTATIONS_PREFIX)}
    times = {index: listed[shard_name(index)] for index in shards if shard_name(index) in listed}
    newest = max(times.values(), default=0.0)
    # A shard's images were made before it was published: those of the oldest, before the time that counts.
    recent = sorted((time, index) for index, time in times.items() if newest - time <= WINDOW_S)
    seconds = recent[-1][0] - recent[0][0] if recent else 0.0
    made = [shards[index] for _, index in recent[1:]]
    speed = sum(summary.shard.num_images for summary in made) / seconds if seconds else None
    workers = worker_speeds(dataset.store, newest - WINDOW_S)
    num_left = dataset.num_planned - totals.num_images
    return Status(
        output=dataset.store.describe(),
        is_finished=dataset.store.has(SUCCESS),
        num_shards=len(shards),
        num_shards_planned=int(dataset.run_info.get("num_shards", len(shards))),
        num_images=totals.num_images,
        num_images_planned=dataset.num_planned,
        num_masks=totals.num_masks,
        failures=totals.failures,
        images_per_second=speed,
        masks_per_second=sum(summary.num_masks for summary in made) / seconds if seconds else None,
        slowest=workers[:NUM_SLOWEST],
        num_workers=len(workers),
        median_images_per_second=statistics.median(each.images_per_second for each in workers)
        if workers
        else None,
        seconds_left=0.0 if not num_left else num_left / speed if speed else None,
        seconds_since_last=max(0.0, now - newest) if times else None,
    )
