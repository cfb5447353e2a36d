"""A lock where there are no locks: an object that its holder renews, and that is taken from the dead.

It saves work and no more: two runs that both believe to hold a store do no harm, see `Store.put_exclusive`.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from sam_engine.errors import LockedError, SamEngineError
from sam_engine.storage.left_behind import is_gone
from sam_engine.storage.store import TEMPORARY, Store
from sam_engine.structures import Partition

log = logging.getLogger(__name__)

LOCKS = f"{TEMPORARY}/locks/"
WHOLE = f"{LOCKS}whole"
RENEWED_EVERY_S = 10.0
DEAD_AFTER_S = 60.0
"""A lock that was not renewed for so long, as seen by one who watches it, is a dead holder's."""


@contextlib.contextmanager
def held_part(store: Store, partition: Partition) -> Iterator[None]:
    """Hold a store, or a part of it, while the block runs.

    Raises:
        LockedError: Another run holds it, or what this one would be a part of.
        StorageError: It cannot be written.
    """
    name = "whole" if partition.is_whole else f"{partition.index}-of-{partition.count}"
    for other in store.list(LOCKS):
        if other != f"{LOCKS}{name}" and (partition.is_whole or other == WHOLE):
            _take_from_the_dead(store, other)
            store.delete_temporary(other)
    with held(store, name):
        yield


@contextlib.contextmanager
def held(store: Store, what: str) -> Iterator[None]:
    """Hold one name of a store while the block runs.

    Raises:
        LockedError: Another process holds it.
        StorageError: It cannot be written.
    """
    name, token = f"{LOCKS}{what}", uuid.uuid4().hex
    if not store.put_exclusive(name, _content(token, 0)):
        _take_from_the_dead(store, name)
        store.replace(name, _content(token, 0))
    stopped = threading.Event()
    renewer = threading.Thread(target=_renew, args=(store, name, token, stopped), daemon=True)
    renewer.start()
    try:
        yield
    finally:
        stopped.set()
        renewer.join()
        with contextlib.suppress(SamEngineError, FileNotFoundError):  # the next run finds it not renewed
            if _holder(store.read(name)).get("token") == token:
                store.delete_temporary(name)


def _renew(store: Store, name: str, token: str, stopped: threading.Event) -> None:
    """Renew a lock until told to stop, or until it is another's."""
    number = 0
    while not stopped.wait(RENEWED_EVERY_S):
        number += 1
        try:
            if _holder(store.read(name)).get("token") != token:
                log.warning("%s/%s was taken by another run; work may be done twice", store.describe(), name)
                return
            store.replace(name, _content(token, number))
        except (SamEngineError, FileNotFoundError) as error:
            log.warning("the lock cannot be renewed: %s", error)


def _take_from_the_dead(store: Store, name: str) -> None:
    """Return when the holder of a lock is known to be dead, or has let it go.

    A process of this machine is looked for; any other is watched.

    Raises:
        LockedError: It lives.
    """
    started, first = time.monotonic(), None
    while time.monotonic() - started < DEAD_AFTER_S:
        try:
            seen = store.read(name)
        except FileNotFoundError:
            return
        holder = _holder(seen)
        if first is None:
            first = seen
            if _is_dead_here(holder):
                return
            log.info("%s is locked by %s; watching whether that lives", store.describe(), _words(holder))
        if seen != first:
            raise LockedError(f"{store.describe()}: another run is writing here ({_words(holder)})")
        time.sleep(RENEWED_EVERY_S / 4)


def _content(token: str, number: int) -> bytes:
    """Return what a lock says; it differs after each renewal."""
    document = {"pid": os.getpid(), "host": socket.gethostname(), "token": token, "renewed": number}
    return json.dumps(document).encode()


def _holder(content: bytes) -> dict[str, Any]:
    """Return what a lock says; nothing if it is none."""
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError):
        return {}


def _is_dead_here(holder: dict[str, Any]) -> bool:
    """Return whether the holder was a process of this machine, and is none any more."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    return is_gone(holder["pid"])


def _words(holder: dict[str, Any]) -> str:
    """Return who holds a lock."""
    if not holder:
        return "its process is not named"
    return f"process {holder.get('pid')} on {holder.get('host')}"
