"""One listing for all drivers of a dataset: the first lists, the others wait for what it froze. No torch.

Only time is at stake. Drivers that list side by side do no harm, as of their manifests one wins: so nobody
waits for a driver that has died or failed, nor where locks cannot be had, nor for ever.
"""

import contextlib
import logging
import time

from sam_engine.dataset.schema import RUN_INFO
from sam_engine.errors import LockedError
from sam_engine.storage.store import Store

log = logging.getLogger(__name__)

LISTING = "listing"
"""What is held by the driver that lists."""
PAUSE_S = 0.5
PATIENCE_S = 1800.0
"""A driver that lives and has frozen nothing for so long is not waited for any more."""


def wait_for_turn(store: Store, turn: contextlib.ExitStack) -> None:
    """Return when a dataset was begun in the store, or when it is this process that should list the input.

    Args:
        store: The output.
        turn: Closed by the caller when it has begun the dataset, or has failed to: then another may list.

    Raises:
        StorageError: The store cannot be read or written.
    """
    started, is_told = time.monotonic(), False
    while not store.has(RUN_INFO):
        try:
            turn.enter_context(store.hold(LISTING))
        except LockedError:
            if time.monotonic() - started > PATIENCE_S:
                log.warning("%s: waited %.0f s for another driver's listing", store.describe(), PATIENCE_S)
                return
            if not is_told:
                log.info("%s: another driver lists the input; waiting for it", store.describe())
            is_told = True
            time.sleep(PAUSE_S)
        else:
            return
