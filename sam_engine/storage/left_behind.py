"""Temporaries that say whose they are, where no lock tells a dead writer's from others."""

import os
import re
import socket
import time
import uuid

from sam_engine.storage.store import TEMPORARY, StoredObject

DEAD_ELSEWHERE_S = 24 * 3600
"""A temporary of another machine that is so old is a dead writer's."""

_NAME = re.compile(rf"{TEMPORARY}/[a-z]+-(?P<host>[^/]+)-(?P<pid>[0-9]+)-[0-9a-f]{{32}}")


def temporary_name(what: str) -> str:
    """Return a name for a temporary of this process, which nobody else has; ``what`` is a word."""
    return f"{TEMPORARY}/{what}-{this_host()}-{os.getpid()}-{uuid.uuid4().hex}"


def is_left_behind(found: StoredObject) -> bool:
    """Return whether an object is a temporary whose writer is dead: it was here, or long ago."""
    match = _NAME.fullmatch(found.name)
    if match is None:
        return False
    if match["host"] == this_host():
        return is_gone(int(match["pid"]))
    return time.time() - found.modified > DEAD_ELSEWHERE_S


def is_gone(pid: int) -> bool:
    """Return whether there is no such process on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def this_host() -> str:
    """Return this machine's name as a part of file names."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())[:64]
