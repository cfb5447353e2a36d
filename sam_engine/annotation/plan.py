"""What a run is to do: settings checked, the dataset opened, shards cut. No torch."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from sam_engine.annotation.image_table import ImageTable, read_image_table
from sam_engine.annotation.prompt_table import PROMPTS, PromptTable, kept_prompts, prompts_of_run
from sam_engine.catalogue import ARCHITECTURES
from sam_engine.checkpoints.resolve import Checkpoint, resolve_checkpoint
from sam_engine.cluster.ray_session import refuse_unreachable
from sam_engine.config import AutoAnnotateConfig
from sam_engine.dataset.manifest import (
    Manifest,
    build_manifest,
    cut_shards,
    default_shard_size,
    selection_in,
)
from sam_engine.dataset.run_info import (
    CONFIG,
    RunInfo,
    config_yaml,
    deciding_settings,
    library_versions,
    refuse_difference,
    selection_settings,
    version_notes,
)
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX, MANIFEST, RUN_INFO, SUCCESS
from sam_engine.dataset.shards import ShardSummary, committed_shards, shard_name
from sam_engine.errors import ConfigError
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import Account, InputSource, ListingRules
from sam_engine.storage.local import SET_ASIDE, open_store
from sam_engine.storage.store import Store
from sam_engine.structures import ImageStatus, Partition, Shard

TABLE_SHA256 = "image_table_sha256"
"""Of a run's selection, where it has an image table."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """A run that may start: whatever can be wrong with its settings was checked, nothing is written."""

    config: AutoAnnotateConfig
    source: InputSource
    account: Account
    """What the listing passed over."""
    store: Store
    manifest: Manifest
    """As the input is now; a resumed run uses the one that was frozen."""
    checkpoint: Checkpoint
    architecture: Mapping[str, object]
    prompts: PromptTable | None = None
    """What ``amg.prompts`` names."""
    image_table: ImageTable | None = None
    """What ``image_table`` names; None also if it is gone, and the dataset keeps what it said."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An open dataset and what is left to do in it."""

    preparation: Preparation
    info: RunInfo
    manifest: Manifest
    """The frozen one."""
    shards: Sequence[Shard]
    """All of the dataset."""
    committed: Mapping[int, ShardSummary]
    """Shards that were published before."""
    notes: Sequence[str]
    """What has changed since the manifest was frozen, in a line each."""

    @property
    def part(self) -> list[Shard]:
        """Those that are this driver's to make, or were, in order."""
        return [shard for shard in self.shards if self.preparation.config.partition.holds(shard)]

    @property
    def open_shards(self) -> list[Shard]:
        """Those of its part that are still to be made, in order."""
        return [shard for shard in self.part if shard.index not in self.committed]


def prepare(config: AutoAnnotateConfig) -> Preparation:
    """Check everything that can be checked before something is written.

    Raises:
        ConfigError: Or one of its kinds: input, output, checkpoint or a setting is wrong.
    """
    if config.amg.grid is None and config.amg.prompts is None:
        raise ConfigError("amg.points_per_side must be at least 1, got None")
    if config.retry_failed and not config.partition.is_whole:
        raise ConfigError(
            "retry_failed=true is for one driver: leave partition.index and partition.count out"
        )
    if config.decode.isolate is None:
        isolate = config.executor.name == "ray"
        config = dataclasses.replace(config, decode=dataclasses.replace(config.decode, isolate=isolate))
    rules = ListingRules(
        column=config.input_column,
        accept_incomplete=config.input_incomplete == "accept",
        video=config.video,
    )
    source, account = open_input(config.input, rules), Account()
    output = config.output or os.path.join("outputs", f"{source.name}-{config.model.name}")
    if "://" not in output:  # workers elsewhere have another working directory
        output = os.path.abspath(output)
    store = open_store(output)
    _refuse_nesting(config, source, output)
    _refuse_foreign(store)
    manifest = build_manifest(
        source.iter_files(account), limit=config.limit, sample=config.sample, seed=config.seed
    )
    image_table = _image_table(config.image_table, store)
    if image_table is not None:
        manifest = image_table.joined(manifest)
    if config.video.is_set and "frame_time_s" not in manifest.extras:
        raise ConfigError(f"video.* chooses frames of videos, and input {source.root} holds none")
    prompts = None if config.amg.prompts is None else prompts_of_run(config.amg.prompts, store)
    if prompts is not None:
        prompts.notes(manifest)
    _check_machine(config)
    checkpoint = resolve_checkpoint(config.model)
    config = dataclasses.replace(config, amg=config.amg.with_thresholds(checkpoint.thresholds))
    return Preparation(
        config=config,
        source=source,
        account=account,
        store=store,
        manifest=manifest,
        checkpoint=checkpoint,
        architecture=dataclasses.asdict(ARCHITECTURES[config.model.name]),
        prompts=prompts,
        image_table=image_table,
    )


def _image_table(path: str | None, store: Store) -> ImageTable | None:
    """Return the table in a file; None where it is gone and a dataset was begun with it."""
    if path is None or (not os.path.exists(path) and store.list(RUN_INFO)):
        return None
    return read_image_table(path)


def open_run(preparation: Preparation) -> Plan:
    """Start the dataset, or go on with it. The caller holds the store's lock.

    Raises:
        FingerprintError: The output holds the dataset of other settings.
        ShardError: A published shard is damaged.
        StorageError: The output cannot be written.
    """
    store, manifest = preparation.store, preparation.manifest
    notes: list[str] = []
    store.delete_own_temporaries()
    store.settle()
    shards = _cut(preparation, manifest)
    here = _run_info(preparation, manifest, shards)
    there = _begun(store) if preparation.config.partition.is_whole else _begun_together(preparation)
    if there is None:
        store.replace(MANIFEST, manifest.to_bytes(_selection(preparation)))
        store.replace(CONFIG, _config_of_all(preparation))
        if preparation.prompts is not None:
            store.replace(PROMPTS, preparation.prompts.to_bytes())
        store.replace(RUN_INFO, here.to_json())
    else:
        manifest, notes = _frozen_manifest(preparation, there)
        shards = _cut(preparation, manifest)
        here = _run_info(preparation, manifest, shards).succeeding(there)
        refuse_difference(store.describe(), there.settings, here.settings)
        notes += version_notes(there.versions, here.versions)
    if preparation.prompts is not None:
        notes += preparation.prompts.notes(manifest)
    if preparation.image_table is not None:
        notes += preparation.image_table.notes(manifest)
    committed = committed_shards(store, here.fingerprint)
    if preparation.config.retry_failed:
        notes += _set_failed_aside(store, committed)
    return Plan(
        preparation=preparation,
        info=here,
        manifest=manifest,
        shards=shards,
        committed=committed,
        notes=notes,
    )


def _begun(store: Store) -> RunInfo | None:
    """Return what is on record of a dataset; None if nothing was made of it yet: it may be begun anew.

    Raises:
        ShardError: The record is damaged.
    """
    if not store.list(ANNOTATIONS_PREFIX) and not store.list(SET_ASIDE):
        return None
    return RunInfo.from_json(store.read(RUN_INFO))


def _set_failed_aside(store: Store, committed: dict[int, ShardSummary]) -> list[str]:
    """Take shards with images that failed for a passing reason out of the dataset, to be made anew.

    Killed anywhere, it may be called again: no image ever has two rows. Returns what was done, in a line.
    """
    retried = {
        index: summary
        for index, summary in committed.items()
        if any(ImageStatus(status).may_pass for status in summary.statuses)
    }
    if not retried:
        return []
    if store.list(SUCCESS):  # until it is true again
        store.set_aside(SUCCESS)
    for index in retried:
        store.set_aside(shard_name(index))
        del committed[index]
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
    if store.list(RUN_INFO):
        return RunInfo.from_json(store.read(RUN_INFO))
    if not store.put_exclusive(MANIFEST, manifest.to_bytes(_selection(preparation))):
        data = store.read(MANIFEST)
        refuse_difference(store.describe(), selection_in(data), _selection(preparation))
        manifest = Manifest.from_bytes(data)
    if prompts is not None and not store.put_exclusive(PROMPTS, prompts.to_bytes()):
        digests = [{"amg.prompts_sha256": table.sha256} for table in (kept_prompts(store), prompts)]
        refuse_difference(store.describe(), *digests)
    config = _config_of_all(preparation)
    store.put_exclusive(CONFIG, config)
    here = _run_info(preparation, manifest, _cut(preparation, manifest))
    if store.put_exclusive(RUN_INFO, here.to_json()):
        store.replace(CONFIG, config)  # an earlier start may have died before its run.json
    return RunInfo.from_json(store.read(RUN_INFO))


def _config_of_all(preparation: Preparation) -> bytes:
    """Return ``_meta/config.yaml``: what makes the dataset, whichever driver writes it."""
    return config_yaml(dataclasses.replace(preparation.config, partition=Partition())).encode()


def _check_machine(config: AutoAnnotateConfig) -> None:
    """Check what can be known here of where shards are to be made.

    Raises:
        ConfigError: There is no such device, or no cluster at the address.
    """
    executor = config.executor
    if executor.name == "ray" and executor.address != "local":
        refuse_unreachable(executor.address)  # its devices are known when Ray is
    elif config.model.device not in ("auto", "cpu") or config.model.precision == "tf32":
        from sam_engine.build_sam import choose_device  # torch takes seconds: only for what can be missing

        choose_device(config.model)


def _refuse_nesting(config: AutoAnnotateConfig, source: InputSource, output: str) -> None:
    """Raise `ConfigError` if the next listing of the input would find the output in it."""
    if config.input is None or not os.path.isdir(source.root) or not os.path.isdir(config.input):
        return
    root, inside = os.path.realpath(source.root), os.path.realpath(output)
    if os.path.commonpath([root, inside]) == root:
        raise ConfigError(f"output {output} lies inside input {source.root}; give an output= beside it")


def _refuse_foreign(store: Store) -> None:
    """Raise `ConfigError` if the output holds things, but no run of ours."""
    names = store.list("")
    foreign = [name for name in names if not name.startswith("_meta/")]
    # Asked again: another driver may have begun the dataset while its folders were being listed.
    if foreign and RUN_INFO not in names and not store.list(RUN_INFO):
        raise ConfigError(
            f"output {store.describe()} is not empty and holds no dataset of this program (but "
            f"{foreign[0]}); give an empty or a new folder"
        )


def _shard_size(preparation: Preparation, manifest: Manifest) -> int:
    """Return the images per shard."""
    return preparation.config.shard_size or default_shard_size(len(manifest))


def _cut(preparation: Preparation, manifest: Manifest) -> list[Shard]:
    """Return the shards of the dataset."""
    return cut_shards(len(manifest), _shard_size(preparation, manifest))


def _run_info(preparation: Preparation, manifest: Manifest, shards: Sequence[Shard]) -> RunInfo:
    """Return what the run's settings say with this manifest."""
    config = preparation.config
    return RunInfo(
        settings=deciding_settings(
            config,
            architecture=preparation.architecture,
            checkpoint_sha256=preparation.checkpoint.sha256,
            manifest_sha256=manifest.sha256,
            shard_size=_shard_size(preparation, manifest),
            extras=manifest.extras,
            prompts_sha256=None if preparation.prompts is None else preparation.prompts.sha256,
        ),
        selection=_selection(preparation),
        random_weights=config.model.checkpoint == "random",
        num_images=len(manifest),
        num_shards=len(shards),
        versions=library_versions(),
    )


def _selection(preparation: Preparation) -> dict[str, Any]:
    """Return how the manifest came about."""
    selection = selection_settings(preparation.config, preparation.source.root)
    if preparation.image_table is not None:
        selection[TABLE_SHA256] = preparation.image_table.sha256
    return selection


def _frozen_manifest(preparation: Preparation, there: RunInfo) -> tuple[Manifest, list[str]]:
    """Return the manifest of a dataset, and what has changed in the input since it was frozen.

    Raises:
        FingerprintError: The input is another one, or other images of it are asked for.
    """
    store, now = preparation.store, preparation.manifest
    frozen = Manifest.from_bytes(store.read(MANIFEST))
    here = _selection(preparation)
    if preparation.image_table is None and preparation.config.image_table is not None:  # it is gone
        here |= {TABLE_SHA256: there.selection.get(TABLE_SHA256)}
    refuse_difference(
        store.describe(), *({TABLE_SHA256: side.get(TABLE_SHA256)} for side in (there.selection, here))
    )
    if now.files_sha256 == frozen.files_sha256:
        num_touched = pc.sum(pc.not_equal(now.table["mtime_ns"], frozen.table["mtime_ns"])).as_py()
        is_elsewhere = there.selection["input"] != here["input"]
        if not num_touched and not is_elsewhere:
            return frozen, []
        # The same files, copied or touched: their times are what they are now.
        as_now = now.with_origins({name: frozen.table[name] for name in frozen.extras})
        store.replace(MANIFEST, as_now.to_bytes())
        touched = f"{num_touched:,} images have a new modification time since the dataset was started"
        return as_now, [] if is_elsewhere else [f"{touched}; they are read as they are now"]
    refuse_difference(store.describe(), there.selection, here)
    return frozen, _changes(frozen, now)


def _changes(frozen: Manifest, now: Manifest) -> list[str]:
    """Describe how the input differs from the frozen manifest, in a line each."""
    before, after = frozen.table["path_bytes"], now.table["path_bytes"]
    new = len(after) - pc.sum(pc.is_in(after, value_set=before)).as_py()
    vanished = len(before) - pc.sum(pc.is_in(before, value_set=after)).as_py()
    notes = []
    if new:
        notes.append(
            f"{new:,} images are new since the dataset was started and are left out; to annotate "
            "them, give another output="
        )
    if vanished:
        notes.append(f"{vanished:,} images have vanished since the dataset was started")
    if not notes:
        notes.append("some images have changed since the dataset was started")
    return notes
