"""Every promise of docs/dataset_format.md, checked on what lies on disk; rows are believed, not footers.

One row group is in memory at a time, and nothing is changed.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sam_engine.dataset.lineage_problems import lineage_problems, parents_of
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.reader import Dataset, read_tables
from sam_engine.dataset.row_problems import record_problems
from sam_engine.dataset.run_info import RunInfo
from sam_engine.dataset.schema import (
    ANNOTATIONS_PREFIX,
    IMAGE,
    MANIFEST,
    RUN_INFO,
    SCHEMA_VERSION,
    SUCCESS,
    display_path,
    row_path,
    table_to_records,
)
from sam_engine.dataset.shards import (
    NOT_INTACT,
    ShardSummary,
    open_shard,
    shard_digest,
    shard_index,
    shard_name,
    success_json,
)
from sam_engine.errors import ShardError
from sam_engine.structures import ANNOTATIONS_PER_IMAGE, ImageStatus

MAX_PROBLEMS_PER_SHARD = 20
"""Listed of one shard: one wrong file should not bury the others."""

_ANNOTATED = pa.array([str(status) for status in ImageStatus if not status.is_failure])
_STATUSES = pa.array([str(status) for status in ImageStatus])


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found in the rows, and what is wrong."""

    problems: list[str] = field(default_factory=list)
    """One line each; empty if every promise holds."""
    num_shards: int = 0
    num_images: int = 0
    num_masks: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    """Number of images by status."""
    damaged: list[str] = field(default_factory=list)
    """Shards that are there, by name, and are not what they should be."""


def verify_dataset(dataset: Dataset) -> Verification:
    """Check a dataset as a whole, and every row and mask in it.

    Raises:
        StorageError: It cannot be read, which is no verdict on it.
    """
    problems = foundation_problems(dataset)
    manifest, _ = _read_manifest(dataset)
    damaged = set()
    summaries: dict[int, ShardSummary] = {}
    digests: dict[int, str] = {}
    statuses: Counter[str] = Counter()
    num_masks = 0
    for name in dataset.store.list(ANNOTATIONS_PREFIX):
        if not name.endswith(".parquet"):
            continue
        index = shard_index(name)
        if index is None:
            problems.append(f"{name}: is not a shard, but readers would take it for one")
            continue
        digest = shard_digest(dataset.store, index)
        digests[index] = digest.sha256
        if not digest.is_intact:
            damaged.add(name)
            problems.append(f"{name}: {NOT_INTACT}")
        try:
            summary = _read_summary(dataset, name, index)
        except (pa.ArrowException, OSError, ValueError) as error:
            damaged.add(name)
            problems.append(f"{name}: {' '.join(str(error).split())}")
            continue
        summaries[index] = summary
        rows: Counter[str] = Counter()
        shard_problems = _shard_problems(dataset, name, summary, manifest, rows)
        if listed := list(islice(shard_problems, MAX_PROBLEMS_PER_SHARD)):
            damaged.add(name)
        problems += [f"{name}: {problem}" for problem in listed]
        if more := sum(1 for _ in shard_problems):
            problems.append(f"{name}: {more} problems more")
        num_masks += rows.pop("masks", 0)
        statuses += rows
    problems += _coverage_problems(summaries, None if manifest is None else len(manifest))
    problems += _success_problems(dataset, summaries, digests)
    recorded = recorded_digests(dataset)
    damaged |= {
        shard_name(index)
        for index, digest in digests.items()
        if recorded.get(shard_name(index), digest) != digest
    }
    return Verification(
        problems=problems,
        num_shards=len(digests),
        num_images=statuses.total(),
        num_masks=num_masks,
        statuses=dict(sorted(statuses.items())),
        damaged=sorted(damaged),
    )


def foundation_problems(dataset: Dataset) -> list[str]:
    """Return what is wrong with settings and manifest: what shards are held against, and made from."""
    return [*_run_info_problems(dataset), *_read_manifest(dataset)[1]]


def recorded_digests(dataset: Dataset) -> dict[str, str]:
    """Return the sha256 of every shard in ``_SUCCESS.json``, by name; none if that cannot be read."""
    try:
        shards = json.loads(dataset.store.read(SUCCESS))["shards"]
        return {name: shard["sha256"] for name, shard in shards.items()}
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _run_info_problems(dataset: Dataset) -> Iterator[str]:
    """Yield what is wrong with ``_meta/run.json``."""
    try:
        info = RunInfo.from_json(dataset.store.read(RUN_INFO))
    except ShardError as error:
        yield str(error)
        return
    version = info.settings.get("schema_version")
    if version != SCHEMA_VERSION:
        yield f"{RUN_INFO}: schema_version is {version!r}; this program knows {SCHEMA_VERSION}"
    try:
        parents_of(dataset.run_info)
    except ValueError as error:
        yield f"{RUN_INFO}: {error}"


def _read_manifest(dataset: Dataset) -> tuple[Manifest | None, list[str]]:
    """Return the manifest, if there is a sound one, and what is wrong with it."""
    try:
        manifest = Manifest.from_bytes(dataset.store.read(MANIFEST))
    except FileNotFoundError:
        return None, [f"{MANIFEST}: is missing, so rows cannot be held against the input"]
    except ShardError as error:
        return None, [f"{MANIFEST}: {error}"]
    segments = dataset.run_info.get("segments") or [dataset.run_info.get("settings") or {}]
    expected = segments[-1].get("manifest_sha256")
    if manifest.sha256 != expected:
        return manifest, [f"{MANIFEST}: has digest {manifest.sha256}; {RUN_INFO} says {expected}"]
    return manifest, []


def _read_summary(dataset: Dataset, name: str, index: int) -> ShardSummary:
    """Return what a shard's footer says of this dataset's shard ``index``.

    Raises:
        ValueError: The footer, the columns, the fingerprint or the shard are not those of this place.
        ArrowException, OSError: It is not Parquet.
    """
    with dataset.store.open(name) as source:
        _, fingerprint, summary = open_shard(source)
    if fingerprint != dataset.fingerprint:
        raise ValueError(f"has fingerprint {fingerprint}; {RUN_INFO} has {dataset.fingerprint}")
    if summary.shard.index != index:
        raise ValueError(f"is shard {summary.shard.index} under another name")
    return summary


def _shard_problems(
    dataset: Dataset, name: str, summary: ShardSummary, manifest: Manifest | None, rows: Counter[str]
) -> Iterator[str]:
    """Yield what is wrong with a shard's rows; count them into ``rows`` by status, and their ``masks``."""
    start = summary.shard.start
    try:
        parents = parents_of(dataset.run_info)
    except ValueError:
        parents = None  # told once, with the settings
    try:
        for table in read_tables(dataset.store, name, images=True):
            yield from _table_problems(table, start, manifest)
            if parents is not None:
                yield from lineage_problems(table, dataset.run_info, parents)
            if (dataset.run_info.get("settings") or {}).get("store_images"):
                yield from _missing_images(table)
            start += len(table)
            for status in table["status"].to_pylist():
                rows[status] += 1
            rows["masks"] += pc.sum(pc.list_value_length(table["annotations"])).as_py() or 0
    except ShardError as error:
        yield str(error)
        return
    counted = {status: count for status, count in rows.items() if status != "masks"}
    if counted != dict(summary.statuses):
        yield f"its footer counts {dict(summary.statuses)}; its rows are {counted}"
    if rows["masks"] != summary.num_masks:
        yield f"its footer counts {summary.num_masks} masks; its rows have {rows['masks']}"


def _table_problems(table: pa.Table, start: int, manifest: Manifest | None) -> Iterator[str]:
    """Yield what is wrong with rows that should be the images from ``start`` on."""
    image_ids = table["image_id"].to_numpy()
    expected = np.arange(start, start + len(table))
    if not np.array_equal(image_ids, expected):
        first = int(np.argmax(image_ids != expected))
        yield f"image_id is {image_ids[first]} where {expected[first]} is due"
    lengths = pc.list_value_length(table["annotations"]).to_numpy()
    num_masks = table["num_masks"].to_numpy()
    for row in np.flatnonzero(lengths != num_masks).tolist():
        yield f"image {image_ids[row]}: num_masks is {num_masks[row]}; it has {lengths[row]}"
    ids = pc.struct_field(pc.list_flatten(table["annotations"]), "id").to_numpy()
    firsts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    wanted = np.repeat(image_ids, lengths) * ANNOTATIONS_PER_IMAGE + np.arange(len(ids)) - firsts
    for place in np.flatnonzero(ids != wanted):
        image_id = wanted[place] // ANNOTATIONS_PER_IMAGE
        yield f"image {image_id}: annotation id {ids[place]} should be {wanted[place]}"
    yield from _path_problems(table, start, manifest)
    is_known = pc.is_in(table["status"].cast(pa.string()), _STATUSES)
    for row in np.flatnonzero(~is_known.to_numpy()).tolist():
        yield f"image {image_ids[row]}: status {table['status'][row].as_py()!r} is not known"
    try:
        records = table_to_records(table.filter(is_known))
    except ShardError as error:
        yield str(error)
        return
    for record in records:
        for problem in record_problems(record):
            yield f"image {record.image_id} ({display_path(record.path)}): {problem}"


def _missing_images(table: pa.Table) -> Iterator[str]:
    """Yield annotated images that are not stored, where the rows do not say why."""
    if IMAGE not in table.column_names:
        yield f"has no column {IMAGE}; its settings say store_images"
        return
    is_annotated = pc.is_in(table["status"].cast(pa.string()), _ANNOTATED)
    wanted = pc.and_(is_annotated, pc.and_(pc.is_null(table[IMAGE]), pc.is_null(table["error"])))
    for image_id in table["image_id"].filter(wanted).to_pylist():
        yield f"image {image_id}: is not stored, and its row does not say why"


def _path_problems(table: pa.Table, start: int, manifest: Manifest | None) -> Iterator[str]:
    """Yield paths that are not the manifest's, or not written as the format says."""
    extras = [] if manifest is None else [name for name in manifest.extras if name in table.column_names]
    rows = table.select(["image_id", "file_name", "path_bytes", *extras]).to_pylist()
    for row in rows:
        path = row_path(row)
        if row["file_name"] != display_path(path) or (row["path_bytes"] is not None and _is_utf8(path)):
            yield f"image {row['image_id']}: file_name and path_bytes do not belong together"
    if manifest is not None and start + len(rows) <= len(manifest):
        for row, entry in zip(rows, manifest.entries(start, start + len(rows)), strict=True):
            if row_path(row) != entry.path:
                listed = display_path(entry.path)
                yield f"image {entry.image_id}: is {row['file_name']!r}; the manifest has {listed!r}"
            for name in manifest.extras:
                value, known = row.get(name), getattr(entry.origin, name)
                if value != known:
                    yield f"image {entry.image_id}: {name} is {value!r}; the manifest has {known!r}"


def _coverage_problems(summaries: Mapping[int, ShardSummary], num_images: int | None) -> Iterator[str]:
    """Yield inputs without a row, and rows that are there twice or belong to no input."""
    due = 0
    for summary in sorted(summaries.values(), key=lambda summary: summary.shard.start):
        shard = summary.shard
        if shard.start > due:
            yield f"images {due} to {shard.start - 1} have no row"
        if shard.start < due:
            name = shard_name(shard.index)
            yield f"{name}: images {shard.start} to {min(due, shard.stop) - 1} have rows in another shard too"
        due = max(due, shard.stop)
    if num_images is not None and due < num_images:
        yield f"images {due} to {num_images - 1} have no row"
    if num_images is not None and due > num_images:
        yield f"images {num_images} to {due - 1} are not in the manifest"


def _success_problems(
    dataset: Dataset, summaries: Mapping[int, ShardSummary], digests: Mapping[int, str]
) -> Iterator[str]:
    """Yield where ``_SUCCESS.json`` and the shards differ."""
    try:
        claimed = json.loads(dataset.store.read(SUCCESS))
    except FileNotFoundError:
        yield f"{SUCCESS}: is missing: the run has not finished"
        return
    except ValueError as error:
        yield f"{SUCCESS}: is not JSON: {error}"
        return
    shards = claimed.get("shards") if isinstance(claimed, dict) else None
    if not isinstance(shards, dict):
        yield f"{SUCCESS}: lists no shards"
        return
    for name in sorted(shards.keys() - {shard_name(index) for index in digests}):
        yield f"{name}: is in {SUCCESS}, but not there"
    expected = json.loads(success_json(summaries, digests, fingerprint=dataset.fingerprint))
    for index, digest in digests.items():
        name = shard_name(index)
        if name not in shards:
            yield f"{name}: is not in {SUCCESS}"
        elif not isinstance(shards[name], dict) or shards[name].get("sha256") != digest:
            yield f"{name}: has digest {digest}; {SUCCESS} says otherwise"
    for key in expected.keys() - {"shards"}:
        if claimed.get(key) != expected[key]:
            yield f"{SUCCESS}: {key} is {claimed.get(key)!r}; the shards say {expected[key]!r}"


def _is_utf8(path: bytes) -> bool:
    """Return whether a path needs no ``path_bytes``."""
    return display_path(path).encode() == path
