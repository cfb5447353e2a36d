"""Make a damaged dataset whole again: shards that are damaged or missing are made anew, the others stay.

A damaged file is moved aside, never deleted. What is then missing is what a resumed run would make, with the
settings on record, so that the new shards have the bytes that the old ones had when they were whole.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sam_engine.annotation.plan import Plan
from sam_engine.annotation.preparation import prepare
from sam_engine.annotation.run import RunEvent, run_prepared
from sam_engine.dataset.lineage_problems import parents_of
from sam_engine.dataset.reader import Dataset
from sam_engine.dataset.run_info import CONFIG, read_config
from sam_engine.dataset.schema import SUCCESS
from sam_engine.dataset.shards import shard_name
from sam_engine.dataset.verify import foundation_problems, recorded_digests, verify_dataset
from sam_engine.errors import ConfigError, ShardError
from sam_engine.structures import ShardReport

if TYPE_CHECKING:
    from sam_engine.modeling.segmenter import Segmenter


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What was done."""

    set_aside: list[str]
    """Where damaged files are now."""
    recomputed: list[str]
    """Shards that were made anew."""
    notes: list[str]
    """What a user should know, a line each."""


def repair_dataset(
    dataset: Dataset,
    *,
    input: str | None = None,
    device: str | None = None,
    make_model: "Callable[[], Segmenter] | None" = None,
) -> Repair:
    """Recompute the shards that `verify_dataset` calls damaged, and those that are missing, in this process.

    It may be killed and called again. Files that are not ours are left alone.

    Args:
        dataset: Nobody else may be writing it.
        input: Where the images are now, if they have moved.
        device: Instead of the one on record. On another kind of device masks may differ slightly.
        make_model: Returns the model; None for the one on record.

    Raises:
        ShardError: Settings or manifest are damaged, so that nobody knows what to make; or a shard failed.
        ConfigError: Input or checkpoint cannot be found, or are not those on record.
        LockedError: A run is writing the dataset.
        StorageError: It cannot be read or written.
    """
    for problem in foundation_problems(dataset):
        raise ShardError(f"{dataset.store.describe()} cannot be repaired: {problem}")
    if parents_of(dataset.run_info) is not None:
        operation = dataset.run_info["settings"].get("operation")
        raise ConfigError(
            f"{dataset.store.describe()} was derived from other datasets: move what is damaged away and "
            f"give the command again that made it ({json.dumps(operation)})"
        )
    config = read_config(dataset.store.read(CONFIG))
    preparation = prepare(
        replace(
            config,
            input=config.input if input is None else input,
            output=dataset.store.describe(),
            model=config.model if device is None else replace(config.model, device=device),
            executor=replace(config.executor, name="inline"),
            retry_failed=False,
            on_input_change="ignore",
        )
    )
    store = preparation.store
    with store.lock():
        damaged = verify_dataset(dataset).damaged
        expected = recorded_digests(dataset)
        set_aside = [store.set_aside(name) for name in damaged]
        if store.has(SUCCESS):  # until it is true again
            set_aside.append(store.set_aside(SUCCESS))
        made: dict[str, str] = {}
        notes: list[str] = []

        def remember(event: RunEvent) -> None:
            if isinstance(event, Plan):
                notes.extend(event.notes)
            elif isinstance(event, ShardReport):
                made[shard_name(event.shard.index)] = event.sha256

        summary = run_prepared(preparation, remember, make_model=make_model)
    for index, reason in summary.given_up.items():
        raise ShardError(f"{shard_name(index)} could not be made again: {reason}")
    notes += [
        f"{name} was made anew, but not with the sha256 that {SUCCESS} had"
        for name, digest in sorted(made.items())
        if expected.get(name, digest) != digest
    ]
    return Repair(set_aside=set_aside, recomputed=sorted(made), notes=notes)
