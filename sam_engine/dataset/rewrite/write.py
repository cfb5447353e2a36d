"""A derived dataset, written shard by shard. The same call goes on where a killed one stopped."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_engine.dataset.begin import begun, refuse_foreign
from sam_engine.dataset.correction_log import CORRECTIONS_FOLDER, to_line
from sam_engine.dataset.hidden import hidden_in, hidden_in_all, keep_hidden
from sam_engine.dataset.lineage_problems import LINEAGE
from sam_engine.dataset.manifest import (
    ORIGIN_COLUMNS,
    SCHEMA,
    Manifest,
    cut_shards,
    default_shard_size,
    stored_shard_size,
)
from sam_engine.dataset.merged_inputs import inputs_of
from sam_engine.dataset.published import committed_shards
from sam_engine.dataset.rewrite.card import CARD, derived_card
from sam_engine.dataset.rewrite.lineage import Descent
from sam_engine.dataset.rewrite.parents import Parent, RecordReader
from sam_engine.dataset.rewrite.rules import KEEP_ALL, Rules
from sam_engine.dataset.run_info import RunInfo, library_versions
from sam_engine.dataset.schema import EXTRAS, IMAGE, MANIFEST, RUN_INFO, SCHEMA_VERSION, SUCCESS
from sam_engine.dataset.shards import publish_shard, shard_sha256, success_json
from sam_engine.errors import ConfigError, FingerprintError, InputError
from sam_engine.storage.open import open_store
from sam_engine.storage.place import lies_in
from sam_engine.storage.store import Store
from sam_engine.structures import Shard

CARRIED = f"{CORRECTIONS_FOLDER}/carried.jsonl"
"""What people said of the parents' masks that is still to be said of the child's."""

_OF_MASKS = ("model.", "amg.", "decode.")
"""Settings that say how masks were made, and so are true of what is derived, too."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A parent and the images that are taken of it."""

    parent: Parent
    image_ids: NDArray[np.int64]
    """(N,) ascending."""
    prefix: str = ""
    """Of paths in the child: a folder's name; empty if paths stay."""

    @property
    def folder(self) -> bytes:
        """What stands before paths."""
        return f"{self.prefix}/".encode() if self.prefix else b""


@dataclass(frozen=True, kw_only=True)
class Derived:
    """What a derived dataset holds, and what its parents held."""

    output: str
    num_images: int
    num_masks: int
    num_parent_images: int
    num_parent_masks: int
    num_corrected: int
    """Images whose corrections were applied."""
    num_carried: int
    """Acceptances that are corrections of the child now."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Everything about a derived dataset that is known before a mask is read."""

    sources: Sequence[Source]
    rules: Rules
    manifest: Manifest
    source_of: NDArray[np.int64]
    """(N,) number of the source of each image."""
    parent_ids: NDArray[np.int64]
    """(N,) id there."""
    info: RunInfo
    shards: Sequence[Shard]


def derive(
    sources: Sequence[Source], output: str | Path, *, operation: Mapping[str, Any], rules: Rules = KEEP_ALL
) -> Derived:
    """Write the images of the sources as a dataset of its own, in order of their paths.

    Killed anywhere it may be called again: shards that are there are kept, and the bytes are the same.

    Args:
        sources: Parents, none twice, with no path twice among all.
        output: A new directory, or that of the same call before.
        operation: What is done; JSON values, in the fingerprint and on the card.
        rules: Which masks stay. Images are chosen by the sources.

    Raises:
        ConfigError: The output is something else, or lies in a parent.
        ShardError: A parent is damaged.
        LockedError, StorageError: The output cannot be written.
    """
    store = open_store(str(output))
    _refuse_inside(os.fspath(output), sources)
    refuse_foreign(store)
    plan = _plan(sources, operation, rules)
    with store.lock():
        return _write(store, plan)


def _plan(sources: Sequence[Source], operation: Mapping[str, Any], rules: Rules) -> _Plan:
    """Freeze the images and the settings of a derived dataset."""
    manifest, source_of, parent_ids = _manifest(sources)
    parents = [source.parent for source in sources]
    found = set(LINEAGE).union(*(parent.dataset.extras for parent in parents), manifest.extras)
    if any(parent.gives_labels for parent in parents):
        found.add("annotations.label")
    shard_size = (stored_shard_size if IMAGE in found else default_shard_size)(len(manifest))
    shards = cut_shards(len(manifest), shard_size)
    shared = _shared_settings(parents)
    settings = {
        "schema_version": SCHEMA_VERSION,
        **shared,
        "operation": json.loads(json.dumps(dict(operation))),
        "parents": [_parent_entry(source, shared) for source in sources],
        "shard_size": shard_size,
        "manifest_sha256": manifest.sha256,
        "extras": [name for name in EXTRAS if name in found],
    }
    info = RunInfo(
        settings=settings,
        selection=_selection(sources),
        random_weights=any(bool(parent.dataset.run_info.get("random_weights")) for parent in parents),
        num_images=len(manifest),
        num_shards=len(shards),
        versions=library_versions(),
    )
    return _Plan(
        sources=sources,
        rules=rules,
        manifest=manifest,
        source_of=source_of,
        parent_ids=parent_ids,
        info=info,
        shards=shards,
    )


def _write(store: Store, plan: _Plan) -> Derived:
    """Make what is missing of a planned dataset."""
    store.delete_own_temporaries()
    store.settle()
    info = plan.info
    there = begun(store)
    if there is None:
        store.replace(MANIFEST, plan.manifest.to_bytes())
        parts = [(source.folder, hidden_in(source.parent.dataset.store)) for source in plan.sources]
        if (hidden := hidden_in_all(parts)) is not None:
            keep_hidden(store, hidden)
        store.replace(RUN_INFO, info.to_json())
    elif there.fingerprint != info.fingerprint:
        keys = {**there.settings, **info.settings}
        differing = [key for key in keys if there.settings.get(key) != info.settings.get(key)]
        raise FingerprintError(
            f"output {store.describe()} holds another dataset ({', '.join(differing)} differ); "
            "give another --output"
        )
    readers = [RecordReader(source.parent.dataset) for source in plan.sources]
    descents = [
        Descent(fingerprint=source.parent.dataset.fingerprint, prefix=source.folder, rules=plan.rules)
        for source in plan.sources
    ]
    committed = committed_shards(store, info.fingerprint)
    for shard in plan.shards:
        if shard.index in committed:
            continue
        records = []
        for image_id in range(shard.start, shard.stop):
            number, parent_id = plan.source_of[image_id], int(plan.parent_ids[image_id])
            said = plan.sources[number].parent.corrections.get(parent_id, ())
            records.append(descents[number].child(readers[number][parent_id], said, image_id))
        published = publish_shard(
            store, records, shard=shard, fingerprint=info.fingerprint, extras=info.settings["extras"]
        )
        committed[shard.index] = published.summary
    num_corrected, carried = 0, b""
    for image_id, (number, parent_id) in enumerate(
        zip(plan.source_of, plan.parent_ids.tolist(), strict=True)
    ):
        if said := plan.sources[number].parent.corrections.get(parent_id, ()):
            num_corrected += 1
            accepted = descents[number].acceptances(readers[number][parent_id], said, image_id)
            carried += b"".join(map(to_line, accepted))
    if not store.has(SUCCESS):
        if carried:
            store.replace(CARRIED, carried)
        card = derived_card(
            store.describe(),
            info,
            plan.manifest,
            committed.values(),
            is_blurred=hidden_in(store) is not None,
        )
        store.replace(CARD, card)
        digests = {index: shard_sha256(store, index) for index in committed}
        store.replace(SUCCESS, success_json(committed, digests, fingerprint=info.fingerprint))
    datasets = [source.parent.dataset for source in plan.sources]
    return Derived(
        output=store.describe(),
        num_images=len(plan.manifest),
        num_masks=sum(summary.num_masks for summary in committed.values()),
        num_parent_images=sum(dataset.num_images for dataset in datasets),
        num_parent_masks=sum(dataset.num_masks for dataset in datasets),
        num_corrected=num_corrected,
        num_carried=carried.count(b"\n"),
    )


def _manifest(sources: Sequence[Source]) -> tuple[Manifest, NDArray[np.int64], NDArray[np.int64]]:
    """Return the listing of the child, and for each of its images the source's number and the id there."""
    extras = set().union(*(source.parent.manifest.extras for source in sources))
    tables = []
    for source in sources:
        table = source.parent.manifest.table.take(pa.array(source.image_ids))
        folder, empty = pa.scalar(source.folder, pa.large_binary()), pa.scalar(b"", pa.large_binary())
        paths = pc.binary_join_element_wise(folder, table["path_bytes"], empty)
        tables.append(table.set_column(1, "path_bytes", paths))
    table = pa.concat_tables(tables, promote_options="default").combine_chunks()
    if not len(table):
        raise InputError("no image is left: there is nothing to write")
    source_of = np.repeat(np.arange(len(sources)), [len(source.image_ids) for source in sources])
    parent_ids = table["image_id"].to_numpy()
    # Stable, and a parent that is not sorted becomes a child that is.
    order = pc.sort_indices(table["path_bytes"]).to_numpy()
    table = table.take(pa.array(order)).combine_chunks()
    image_id = pa.array(np.arange(len(table)), pa.int64())
    table = table.set_column(0, pa.field("image_id", pa.int64(), nullable=False), image_id)
    plain = pa.table({name: table[name] for name in SCHEMA.names}).cast(SCHEMA)
    origins = {column.name: table[column.name] for column in ORIGIN_COLUMNS if column.name in extras}
    return Manifest(plain).with_origins(origins), source_of[order], parent_ids[order]


def _shared_settings(parents: Sequence[Parent]) -> dict[str, Any]:
    """Return what is true of the masks of all parents; another model for each is none of the whole."""
    first, *others = (parent.settings for parent in parents)
    return {
        key: value
        for key, value in first.items()
        if key.startswith(_OF_MASKS) and all(key in other and other[key] == value for other in others)
    }


def _parent_entry(source: Source, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return what run.json says of a parent: what it is known by, and its settings that are not shared."""
    parent = source.parent
    return {
        "fingerprint": parent.dataset.fingerprint,
        "rows_sha256": parent.rows_sha256,
        "corrections_sha256": parent.corrections_sha256,
        "prefix": source.prefix,
        "settings": {key: value for key, value in parent.settings.items() if key not in shared},
    }


def _selection(sources: Sequence[Source]) -> dict[str, Any]:
    """Return where the images are: of one input as the parent has it, of several by the prefix of paths."""
    first = sources[0]
    if not first.prefix:
        return dict(first.parent.selection)
    inputs: dict[str, Any] = {}
    for source in sources:
        for prefix, spec in inputs_of(source.parent.dataset.run_info).items():
            inputs["/".join(filter(None, (source.prefix, prefix)))] = spec
    return {"input": None, "limit": None, "sample": None, "seed": 0, "inputs": inputs}


def _refuse_inside(output: str, sources: Sequence[Source]) -> None:
    """Raise `ConfigError` if the output lies in a parent, whose tree is not to be written to."""
    for source in sources:
        if lies_in(output, source.parent.path):
            raise ConfigError(f"--output {output} lies in {source.parent.path}; give a directory beside it")
