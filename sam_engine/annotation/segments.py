"""What a dataset was begun with, and what was appended since: manifest, shards and their record. No torch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from sam_engine.annotation.preparation import Preparation
from sam_engine.config import AutoAnnotateConfig
from sam_engine.dataset.manifest import Manifest, cut_shards, default_shard_size, stored_shard_size
from sam_engine.dataset.run_info import (
    TABLE_SHA256,
    RunInfo,
    deciding_settings,
    library_versions,
    refuse_difference,
    selection_settings,
)
from sam_engine.dataset.schema import MANIFEST
from sam_engine.errors import FingerprintError
from sam_engine.structures import Shard


def run_info(preparation: Preparation, begun_with: Manifest, there: RunInfo | None = None) -> RunInfo:
    """Return what the run's settings say with the manifest that a dataset was, or is now, begun with.

    Args:
        preparation: The run's.
        begun_with: Without what was appended since.
        there: What is on record, if it is gone on with. Where it may be extended, ``shard_size`` is that of
            what is appended.
    """
    config = preparation.config
    segments = () if there is None else there.segments
    shard_size = config.shard_size or _shard_size(config, len(begun_with))
    if there is not None and config.on_input_change == "extend":
        shard_size = there.settings["shard_size"]
    info = RunInfo(
        settings=deciding_settings(
            config,
            architecture=preparation.architecture,
            checkpoint_sha256=preparation.checkpoint.sha256,
            manifest_sha256=begun_with.sha256,
            shard_size=shard_size,
            extras=begun_with.extras,
            prompts_sha256=None if preparation.prompts is None else preparation.prompts.sha256,
            hidden_sha256=None if preparation.hidden is None else preparation.hidden.sha256,
        ),
        selection=selection(preparation),
        random_weights=config.model.checkpoint == "random",
        num_images=len(begun_with),
        num_shards=0,
        versions=library_versions(),
    )
    return with_segments(info, segments, segments[-1]["stop"] if segments else len(begun_with))


def _shard_size(config: AutoAnnotateConfig, num_images: int) -> int:
    """Return the images of a shard where nobody says."""
    return (stored_shard_size if config.store_images else default_shard_size)(num_images)


def with_segments(info: RunInfo, segments: Sequence[Mapping[str, Any]], num_images: int) -> RunInfo:
    """Return what is on record of a dataset that has these segments."""
    info = dataclasses.replace(info, segments=segments, num_images=num_images)
    return dataclasses.replace(info, num_shards=len(shards_of(info)))


def shards_of(info: RunInfo) -> list[Shard]:
    """Return the shards of a dataset: those of what it was begun with, then each segment's."""
    first = info.segments[0]["start"] if info.segments else info.num_images
    shards = cut_shards(first, info.settings["shard_size"])
    for segment in info.segments:
        shards += cut_shards(segment["stop"], segment["shard_size"], segment["start"], len(shards))
    return shards


def selection(preparation: Preparation) -> dict[str, Any]:
    """Return how the manifest came about."""
    chosen = selection_settings(preparation.config, preparation.source.root)
    if preparation.image_table is not None:
        chosen[TABLE_SHA256] = preparation.image_table.sha256
    return chosen


def manifest_now(
    preparation: Preparation, there: RunInfo, frozen: Manifest
) -> tuple[Manifest, Sequence[Mapping[str, Any]], list[str]]:
    """Return manifest and segments of a dataset that is gone on with, and what has changed meanwhile.

    Raises:
        FingerprintError: The input is another one, or other images of it are asked for.
    """
    store, now, config = preparation.store, preparation.manifest, preparation.config
    here = selection(preparation)
    if preparation.image_table is None and config.image_table is not None:  # it is gone
        here |= {TABLE_SHA256: there.selection.get(TABLE_SHA256)}
    if config.on_input_change != "extend":  # whose table may have grown with the images
        tables = [{TABLE_SHA256: side.get(TABLE_SHA256)} for side in (there.selection, here)]
        refuse_difference(store.describe(), *tables)
    if now.holds_what(frozen):
        as_now = frozen.with_times_of(now)
        num_touched = pc.sum(pc.not_equal(as_now.table["mtime_ns"], frozen.table["mtime_ns"])).as_py()
        if not num_touched:
            return frozen, there.segments, []
        # The same files, copied or touched: their times are what they are now.
        store.replace(MANIFEST, as_now.to_bytes())
        is_elsewhere = there.selection["input"] != here["input"]
        touched = f"{num_touched:,} images have a new modification time since the dataset was started"
        return as_now, there.segments, [] if is_elsewhere else [f"{touched}; they are read as they are now"]
    changes = _changes(frozen, now, config.on_input_change)
    if config.on_input_change == "error":
        raise FingerprintError(f"output {store.describe()}: {'; '.join(changes)} (on_input_change=error)")
    if config.on_input_change == "ignore":
        refuse_difference(store.describe(), there.selection, here)
        return frozen, there.segments, changes
    if now.extras != frozen.extras:
        there_known, here_known = (", ".join(each.extras) or "nothing" for each in (frozen, now))
        raise FingerprintError(
            f"output {store.describe()} cannot be extended: of its images {there_known} is known besides, of "
            f"those of the input {here_known}"
        )
    manifest = frozen.extended_by(now)
    if len(manifest) == len(frozen):
        return frozen, there.segments, changes
    num_new = len(manifest) - len(frozen)
    size = config.shard_size or max(there.settings["shard_size"], _shard_size(config, num_new))
    segment = {
        "start": len(frozen),
        "stop": len(manifest),
        "shard_size": size,
        "manifest_sha256": manifest.sha256,
    }
    return manifest, (*there.segments, segment), changes


def _changes(frozen: Manifest, now: Manifest, on_input_change: str) -> list[str]:
    """Describe how the input differs from the frozen manifest, in a line each."""
    places = now.places_in(frozen)
    known = now.table["size"].filter(pc.is_valid(places))
    num_resized = pc.sum(pc.not_equal(known, frozen.table["size"].take(places.drop_null()))).as_py() or 0
    num_vanished = frozen.places_in(now).null_count
    what_becomes = {
        "extend": "are appended",
        "ignore": "are left out; on_input_change=extend annotates them",
        "error": "would be left out; on_input_change=extend annotates them",
    }[on_input_change]
    notes = []
    if places.null_count:
        notes.append(f"{places.null_count:,} images are new since the dataset was started and {what_becomes}")
    if num_vanished:
        notes.append(f"{num_vanished:,} images have vanished since the dataset was started")
    if num_resized or not notes:
        notes.append(f"{num_resized or 'some'} images have changed since the dataset was started")
    return notes
