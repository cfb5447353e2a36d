"""The model of a disk without power: what it calls possible, on protocols of which the answer is known."""

import random

import pytest

from tests.faults.crashstates import Disk, Operation

WHOLE = b"whole shard"

CREATE = Operation(name="create", path="tmp")
WRITE = Operation(name="write", path="tmp", data=WHOLE)
SYNC = Operation(name="fsync", path="tmp")
LINK = Operation(name="link", path="tmp", target="final")
RENAME = Operation(name="rename", path="tmp", target="final")
SYNC_FOLDER = Operation(name="fsync", path="", is_folder=True)


def contents_of_final(*operations):
    """Return what ``final`` may hold when the power fails after these; None where it is not there."""
    disk = Disk()
    for operation in operations:
        disk.apply(operation)
    return {state.get("final") for state in disk.crash_states(ignore="-", dice=random.Random(0))}


def test_what_was_synced_and_linked_is_whole_or_absent():
    """Before its folder is synced a name may be lost; what it names is never torn."""
    assert contents_of_final(CREATE, WRITE, SYNC, LINK) == {None, WHOLE}


def test_a_synced_folder_keeps_its_names():
    """After that the commit lasts."""
    assert contents_of_final(CREATE, WRITE, SYNC, LINK, SYNC_FOLDER) == {WHOLE}


def test_unsynced_bytes_may_be_missing_halved_or_zero():
    """Whether linked or renamed; a synced name does not help."""
    torn = {b"", WHOLE[: len(WHOLE) // 2], bytes(len(WHOLE)), WHOLE}

    assert contents_of_final(CREATE, WRITE, LINK, SYNC_FOLDER) == torn
    assert contents_of_final(CREATE, WRITE, RENAME, SYNC_FOLDER) == torn


def test_a_file_in_a_lost_folder_is_lost():
    """A folder's own entry has to last too."""
    operations = [
        Operation(name="mkdir", path="d"),
        Operation(name="create", path="d/final"),
        Operation(name="fsync", path="d/final"),
        Operation(name="fsync", path="d", is_folder=True),
    ]
    disk = Disk()
    for operation in operations:
        disk.apply(operation)

    states = sorted(disk.crash_states(ignore="-", dice=random.Random(0)), key=len)

    assert states == [{}, {"d/final": b""}]


def test_names_may_reach_the_disk_in_any_order():
    """Two unsynced entries: none, either or both."""
    disk = Disk()
    for name in ("a", "b"):
        disk.apply(Operation(name="create", path=name))
    states = list(disk.crash_states(ignore="-", dice=random.Random(0)))

    assert sorted(sorted(state) for state in states) == [[], ["a"], ["a", "b"], ["b"]]


def test_a_rename_may_be_half_done():
    """The old name may stay, and the new one be missing; what was there before is never mixed with it."""
    disk = Disk()
    for operation in (
        Operation(name="create", path="final"),
        Operation(name="write", path="final", data=b"old"),
        Operation(name="fsync", path="final"),
        SYNC_FOLDER,
        CREATE,
        WRITE,
        SYNC,
        RENAME,
    ):
        disk.apply(operation)
    states = list(disk.crash_states(ignore="-", dice=random.Random(0)))

    assert {state["final"] for state in states} == {b"old", WHOLE}


@pytest.mark.parametrize("offset", [None, 0])
def test_writes_follow_each_other(offset):
    """os.write goes on where the last one ended; pwrite goes where it is told."""
    disk = Disk()
    for operation in (
        CREATE,
        Operation(name="write", path="tmp", data=b"ab"),
        Operation(name="write", path="tmp", data=b"c", offset=offset),
    ):
        disk.apply(operation)

    assert disk.volatile["tmp"].volatile == (b"abc" if offset is None else b"cb")
