"""What a run is to do: the dataset opened or begun, and the shards that it lacks. No torch."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from sam_engine.annotation.preparation import Preparation
from sam_engine.annotation.prompt_table import PROMPTS, kept_prompts
from sam_engine.annotation.segments import manifest_now, run_info, selection, shards_of, with_segments
from sam_engine.dataset.begin import begun
from sam_engine.dataset.hidden import keep_hidden
from sam_engine.dataset.manifest import Manifest, selection_in
from sam_engine.dataset.published import committed_shards, published_shards
from sam_engine.dataset.run_info import CONFIG, RunInfo, config_yaml, refuse_difference, version_notes
from sam_engine.dataset.schema import MANIFEST, RUN_INFO, SUCCESS
from sam_engine.dataset.shards import shard_name
from sam_engine.storage.exclusivity import refuse_inexclusive
from sam_engine.storage.store import SET_ASIDE, Store
from sam_engine.structures import ImageStatus, Partition, Shard


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An open dataset and what is left to do in it."""

    preparation: Preparation
    info: RunInfo
    manifest: Manifest
    """The frozen one."""
    shards: Sequence[Shard]
    """All of the dataset."""
    published: frozenset[int]
    """Indices of the shards that were there before, as one listing has them; they are read at the end."""
    notes: Sequence[str]
    """What has changed since the manifest was frozen, in a line each."""

    @property
    def part(self) -> list[Shard]:
        """Those that are this driver's to make, or were, in order."""
        return [shard for shard in self.shards if self.preparation.config.partition.holds(shard)]

    @property
    def open_shards(self) -> list[Shard]:
        """Those of its part that are still to be made, in order."""
        return [shard for shard in self.part if shard.index not in self.published]


def open_run(preparation: Preparation) -> Plan:
    """Start the dataset, or go on with it. The caller holds the store's lock.

    Raises:
        FingerprintError: The output holds the dataset of other settings.
        ConfigError: Its store lets several writers create one object.
        ShardError: What is on record is damaged, or something else is named as shards are.
        StorageError: The output cannot be written.
    """
    store, manifest = preparation.store, preparation.manifest
    notes: list[str] = []
    store.delete_own_temporaries()
    store.settle()
    if store.needs_proof and not store.has(RUN_INFO):
        refuse_inexclusive(store)
    there = begun(store) if preparation.config.partition.is_whole else _begun_together(preparation)
    if there is None:
        here = run_info(preparation, manifest)
        store.replace(MANIFEST, manifest.to_bytes(selection(preparation)))
        store.replace(CONFIG, _config_of_all(preparation))
        if preparation.prompts is not None:
            store.replace(PROMPTS, preparation.prompts.to_bytes())
        if preparation.hidden is not None:  # before anybody can take it for a dataset
            keep_hidden(store, preparation.hidden)
        store.replace(RUN_INFO, here.to_json())
    else:
        # Killed between manifest and run.json, an extension has not happened.
        frozen = Manifest.from_bytes(store.read(MANIFEST)).first(there.num_images)
        begun_with = frozen.first(there.segments[0]["start"]) if there.segments else frozen
        here = run_info(preparation, begun_with, there).succeeding(there)
        refuse_difference(store.describe(), there.settings, here.settings)
        manifest, segments, notes = manifest_now(preparation, there, frozen)
        here = with_segments(here, segments, len(manifest))
        notes += version_notes(there.versions, here.versions)
        if segments != there.segments:
            if store.has(SUCCESS):  # until it is true again
                store.set_aside(SUCCESS)
            store.replace(MANIFEST, manifest.to_bytes())
            store.replace(CONFIG, _config_of_all(preparation))
            store.replace(RUN_INFO, here.to_json())
    if preparation.prompts is not None:
        notes += preparation.prompts.notes(manifest)
    if preparation.image_table is not None:
        notes += preparation.image_table.notes(manifest)
    if preparation.blur is not None:
        notes += preparation.blur.notes(manifest.table["path_bytes"].to_pylist())
    if preparation.hidden is not None:
        keep_hidden(store, preparation.hidden)
    published = set(published_shards(store))
    if preparation.config.retry_failed:
        notes += _set_failed_aside(store, here.fingerprint, published)
    return Plan(
        preparation=preparation,
        info=here,
        manifest=manifest,
        shards=shards_of(here),
        published=frozenset(published),
        notes=notes,
    )


def _set_failed_aside(store: Store, fingerprint: str, published: set[int]) -> list[str]:
    """Take shards with images that failed for a passing reason out of those published, to be made anew.

    Killed anywhere, it may be called again: no image ever has two rows. Returns what was done, in a line.
    """
    retried = {
        index: summary
        for index, summary in committed_shards(store, fingerprint).items()
        if any(ImageStatus(status).may_pass for status in summary.statuses)
    }
    if not retried:
        return []
    if store.has(SUCCESS):  # until it is true again
        store.set_aside(SUCCESS)
    for index in retried:
        store.set_aside(shard_name(index))
        published.discard(index)
    num_failed = sum(
        count
        for summary in retried.values()
        for status, count in summary.statuses.items()
        if ImageStatus(status).may_pass
    )
    return [
        f"{num_failed:,} images failed for reasons that may pass: {len(retried):,} shards are made anew, and "
        f"kept in {SET_ASIDE} as they were"
    ]


def _begun_together(preparation: Preparation) -> RunInfo:
    """Return what is on record of a dataset; begin it if nothing is, as drivers of other parts may do now.

    Nothing is overwritten that another may be going by: of manifest, prompts and run.json the first one wins,
    and all use that. Listings may differ, as files may arrive meanwhile; settings may not.

    Raises:
        FingerprintError: What is there belongs to a run of other images or prompts.
        ShardError: The record is damaged.
    """
    store, manifest, prompts = preparation.store, preparation.manifest, preparation.prompts
    if store.has(RUN_INFO):
        return RunInfo.from_json(store.read(RUN_INFO))
    if not store.put_exclusive(MANIFEST, manifest.to_bytes(selection(preparation))):
        data = store.read(MANIFEST)
        refuse_difference(store.describe(), selection_in(data), selection(preparation))
        manifest = Manifest.from_bytes(data)
    if prompts is not None and not store.put_exclusive(PROMPTS, prompts.to_bytes()):
        digests = [{"amg.prompts_sha256": table.sha256} for table in (kept_prompts(store), prompts)]
        refuse_difference(store.describe(), *digests)
    config = _config_of_all(preparation)
    store.put_exclusive(CONFIG, config)
    if preparation.hidden is not None:
        keep_hidden(store, preparation.hidden)
    here = run_info(preparation, manifest)
    if store.put_exclusive(RUN_INFO, here.to_json()):
        store.replace(CONFIG, config)  # an earlier start may have died before its run.json
    return RunInfo.from_json(store.read(RUN_INFO))


def _config_of_all(preparation: Preparation) -> bytes:
    """Return ``_meta/config.yaml``: what makes the dataset, whichever driver writes it."""
    return config_yaml(dataclasses.replace(preparation.config, partition=Partition())).encode()
