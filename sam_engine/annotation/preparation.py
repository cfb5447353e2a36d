"""Settings on their way to a run: everything is checked that can be, and nothing is written. No torch."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass

from sam_engine.annotation.executor_choice import ExecutorChoice, choose_executor
from sam_engine.annotation.image_table import ImageTable, read_image_table
from sam_engine.annotation.listing_turn import wait_for_turn
from sam_engine.annotation.prompt_table import PromptTable, prompts_of_run
from sam_engine.checkpoints.resolve import Checkpoint, resolve_checkpoint
from sam_engine.cluster.ray_session import refuse_unreachable
from sam_engine.config import AutoAnnotateConfig, PrivacyConfig
from sam_engine.dataset.begin import refuse_foreign
from sam_engine.dataset.hidden import HIDDEN, Hidden, hidden_in
from sam_engine.dataset.manifest import Manifest, build_manifest
from sam_engine.dataset.run_info import TABLE_SHA256, RunInfo, selection_settings
from sam_engine.dataset.schema import MANIFEST, RUN_INFO
from sam_engine.errors import ConfigError
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import Account, InputSource, ListingRules
from sam_engine.privacy.open import Blur, kept_blur, open_blur
from sam_engine.storage.anywhere import exists, is_file
from sam_engine.storage.open import open_store
from sam_engine.storage.place import is_object_url, lies_in, scheme_of
from sam_engine.storage.store import Store


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
    blur: Blur | None = None
    """What ``privacy`` asks for."""
    hidden: Hidden | None = None
    """What it hides, for the dataset to keep."""
    choice: ExecutorChoice
    """What ``executor.name`` came to."""


def prepare(config: AutoAnnotateConfig, turn: contextlib.ExitStack | None = None) -> Preparation:
    """Check everything that can be checked before something is written.

    Args:
        config: Of the run.
        turn: Given by a driver that will begin the dataset, and is closed by it then: of drivers of parts
            that start together one lists the input, and the others return when it has begun the dataset.

    Raises:
        ConfigError: Or one of its kinds: input, output, checkpoint or a setting is wrong.
    """
    if config.amg.grid is None and config.amg.prompts is None:
        raise ConfigError("amg.points_per_side must be at least 1, got None")
    if not config.partition.is_whole and (config.retry_failed or config.on_input_change == "extend"):
        name = "retry_failed=true" if config.retry_failed else "on_input_change=extend"
        raise ConfigError(f"{name} is for one driver: leave partition.index and partition.count out")
    rules = ListingRules(
        column=config.input_column,
        accept_incomplete=config.input_incomplete == "accept",
        video=config.video,
    )
    source, account = open_input(config.input, rules), Account()
    output = config.output or os.path.join("outputs", f"{source.name}-{config.model.name}")
    if scheme_of(output) is None:  # workers elsewhere have another working directory
        output = os.path.abspath(output)
    store = open_store(output)
    _refuse_nesting(config, source, output)
    refuse_foreign(store)
    if turn is not None and not config.partition.is_whole:
        wait_for_turn(store, turn)
    manifest = _frozen(config, source, store) or build_manifest(
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
    hidden, blur = _hidden(config.privacy, store)
    if blur is not None:
        blur.notes(manifest.table["path_bytes"].to_pylist())
    choice = choose_executor(config, len(manifest))
    isolate = config.decode.isolate
    config = dataclasses.replace(
        config,
        executor=dataclasses.replace(config.executor, name=choice.name),
        decode=dataclasses.replace(
            config.decode, isolate=config.executor.name != "inline" if isolate is None else isolate
        ),
    )
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
        architecture=dataclasses.asdict(checkpoint.architecture) if checkpoint.architecture else {},
        prompts=prompts,
        image_table=image_table,
        blur=blur,
        hidden=hidden,
        choice=choice,
    )


def _frozen(config: AutoAnnotateConfig, source: InputSource, store: Store) -> Manifest | None:
    """Return what another driver has listed, for that of a part: of millions of images one listing will do.

    None: nobody has yet, or another input or other images of it.
    """
    if config.partition.is_whole or not store.has(RUN_INFO):
        return None
    there = RunInfo.from_json(store.read(RUN_INFO))
    chosen = {key: value for key, value in there.selection.items() if key != TABLE_SHA256}
    if chosen != selection_settings(config, source.root):
        return None
    return Manifest.from_bytes(store.read(MANIFEST)).first(there.num_images)


def _image_table(path: str | None, store: Store) -> ImageTable | None:
    """Return the table in a file; None where it is gone and a dataset was begun with it."""
    if path is None or (not exists(path) and store.has(RUN_INFO)):
        return None
    return read_image_table(path)


def _hidden(privacy: PrivacyConfig, store: Store) -> tuple[Hidden | None, Blur | None]:
    """Return what is hidden, and what blurs it; where the table is gone, what the dataset keeps of it."""
    if privacy.boxes is not None and not os.path.exists(privacy.boxes):
        kept = hidden_in(store)
        if kept is not None:
            return kept, kept_blur(faces=kept.faces, boxes=kept.boxes, name=HIDDEN)
    blur = open_blur(privacy)
    return None if blur is None else Hidden(faces=blur.finds_faces, boxes=blur.boxes), blur


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
    if config.input is None:
        return
    if is_object_url(config.input):
        is_folder = not is_file(config.input)
    else:
        is_folder = os.path.isdir(source.root) and os.path.isdir(config.input)
    if is_folder and lies_in(output, source.root):
        raise ConfigError(f"output {output} lies inside input {source.root}; give an output= beside it")
