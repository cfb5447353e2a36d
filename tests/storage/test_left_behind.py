"""What killed processes leave in an object store is deleted by the next run, and nothing else."""

import subprocess
import sys
import time

import pytest

from sam_engine.storage import left_behind
from sam_engine.storage.left_behind import DEAD_ELSEWHERE_S, is_left_behind, temporary_name
from sam_engine.storage.open import open_store
from sam_engine.storage.store import TEMPORARY, StoredObject

PROBE = """
import os, signal, sys
from sam_engine.storage.exclusivity import refuse_inexclusive
from sam_engine.storage.object_store import ObjectStore

class Dying(ObjectStore):
    def read(self, name):
        os.kill(os.getpid(), signal.SIGKILL)

refuse_inexclusive(Dying(sys.argv[1]))
"""


def test_what_a_killed_probe_has_left_goes_with_the_next_run(bucket_url):
    """The process was of this machine, and is no more; a living one's, another machine's and locks stay."""
    killed = subprocess.run([sys.executable, "-c", PROBE, bucket_url], check=False)
    store = open_store(bucket_url)
    [left] = store.list(f"{TEMPORARY}/")
    kept = [
        f"{TEMPORARY}/locks/whole",
        temporary_name("preflight"),
        f"{TEMPORARY}/probe-elsewhere-1-{'0' * 32}",
        "annotations/probe",
    ]
    for name in kept:
        store.put_exclusive(name, b"")
    store.delete_own_temporaries()

    assert killed.returncode == -9
    assert left.startswith(f"{TEMPORARY}/probe-")
    assert store.list("") == sorted(kept)


@pytest.mark.parametrize(("age_s", "is_dead"), [(0, False), (DEAD_ELSEWHERE_S + 60, True)])
def test_what_another_machine_has_left_goes_after_a_day(age_s, is_dead, monkeypatch):
    """Its processes cannot be looked for here."""
    monkeypatch.setattr(left_behind, "this_host", lambda: "another-one.example")
    name = temporary_name("probe")
    monkeypatch.undo()

    assert is_left_behind(StoredObject(name=name, size=0, modified=time.time() - age_s)) == is_dead
