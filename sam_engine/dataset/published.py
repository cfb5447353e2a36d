"""Which shards of a dataset there are: by one listing, and by what their footers say."""

from concurrent.futures import ThreadPoolExecutor

from sam_engine.dataset.schema import ANNOTATIONS_PREFIX
from sam_engine.dataset.shards import ShardSummary, read_summary, shard_error, shard_index
from sam_engine.storage.store import Store, StoredObject

FOOTERS_AT_ONCE = 16
"""Read by as many threads: a request to an object store takes tens of milliseconds."""


def published_shards(store: Store) -> dict[int, StoredObject]:
    """Return the shards that are there, by index, from one listing. None of them is read.

    Raises:
        ShardError: Something else is called as readers take shards to be.
    """
    found = {}
    for each in store.scan(ANNOTATIONS_PREFIX):
        if not each.name.endswith(".parquet"):
            continue
        index = shard_index(each.name)
        if index is None:
            raise shard_error(store, each.name, "is not a shard; move it away")
        found[index] = each
    return found


def committed_shards(store: Store, fingerprint: str) -> dict[int, ShardSummary]:
    """Return the shards that are published, by index, with what their footers say; several are read at once.

    Raises:
        ShardError: A file among them is unreadable, or belongs to another run or dataset.
    """

    def summary_of(item: tuple[int, StoredObject]) -> ShardSummary:
        index, listed = item
        with store.open(listed.name, listed.size) as file:
            summary = read_summary(file, store, listed.name, fingerprint)
        if summary.shard.index != index:
            raise shard_error(store, listed.name, f"is shard {summary.shard.index} under another name")
        return summary

    listed = published_shards(store)
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return dict(zip(listed, pool.map(summary_of, listed.items()), strict=True))
