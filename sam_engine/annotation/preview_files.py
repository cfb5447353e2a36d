"""The pictures of a dataset under previews/: drawn, and none left that shows what it must not."""

from collections.abc import Mapping

import numpy as np
import simplejpeg

from sam_engine.annotation.plan import Plan
from sam_engine.dataset.previews import PREVIEWS_PREFIX, draw_previews
from sam_engine.dataset.shards import ShardSummary
from sam_engine.storage.store import Store

NOTHING = np.full((64, 64, 3), 128, np.uint8)
"""Stands where a picture must not be seen any more: stores delete nothing."""


def previews_in(store: Store) -> list[str]:
    """Return the names of the pictures that are there."""
    return [name for name in store.list(PREVIEWS_PREFIX) if name.endswith(".jpg")]


def publish_previews(plan: Plan, summaries: Mapping[int, ShardSummary]) -> list[str]:
    """Draw previews, and return their names.

    With ``privacy.blur``, what earlier runs drew and this one does not becomes an even grey.

    Args:
        plan: Of the run.
        summaries: Published shards by index.

    Raises:
        ShardError: A shard is damaged.
        StorageError: The output cannot be written.
    """
    preparation, store = plan.preparation, plan.preparation.store
    config, blur = preparation.config, preparation.blur
    drawn = dict(
        draw_previews(
            store, summaries, plan.manifest, preparation.source, config.decode, config.previews, hide=blur
        )
    )
    for name, data in drawn.items():
        store.replace(name, data)
    for name in previews_in(store) if blur is not None else ():
        if name not in drawn:
            store.replace(name, simplejpeg.encode_jpeg(NOTHING, colorspace="RGB"))
    return sorted(drawn)
