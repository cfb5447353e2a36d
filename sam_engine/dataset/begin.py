"""What is in an output before something is written there: nothing, a dataset of ours, or something else."""

from sam_engine.dataset.run_info import RunInfo
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX, RUN_INFO
from sam_engine.errors import ConfigError
from sam_engine.storage.store import SET_ASIDE, Store

_LOOKED_AT = 1000
"""Names at most: what is not ours may be large."""


def begun(store: Store) -> RunInfo | None:
    """Return what is on record of a dataset; None if nothing was made of it yet: it may be begun anew.

    Raises:
        ShardError: The record is damaged.
    """
    if not store.list(ANNOTATIONS_PREFIX, 1) and not store.list(f"{SET_ASIDE}/", 1):
        return None
    return RunInfo.from_json(store.read(RUN_INFO))


def refuse_foreign(store: Store) -> None:
    """Raise `ConfigError` if the output holds things, but no run of ours."""
    if store.has(RUN_INFO):
        return
    foreign = [name for name in store.list("", _LOOKED_AT) if not name.startswith("_meta/")]
    # Asked again: another driver may have begun the dataset while its folders were being listed.
    if foreign and not store.has(RUN_INFO):
        raise ConfigError(
            f"output {store.describe()} is not empty and holds no dataset of this program (but "
            f"{foreign[0]}); give an empty or a new folder"
        )
