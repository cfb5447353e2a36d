"""Drivers of parts that start together list the input once."""

import contextlib
import time

import pytest

from sam_engine.annotation import listing_turn
from sam_engine.annotation.listing_turn import LISTING
from sam_engine.annotation.preparation import prepare
from sam_engine.dataset.schema import MANIFEST, RUN_INFO
from sam_engine.inputs.source import FileInput
from sam_engine.storage.local import LocalStore
from tests.faults.drivers import part_of
from tests.faults.scene import kill, make_scene, wait

NUM_DRIVERS = 8


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A place where one driver was at work, and what came of it."""
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def scene(whole):
    whole.clear()
    listings(whole).unlink(missing_ok=True)
    return whole


def listings(scene):
    """Return the file that has a character for each listing."""
    return scene.root / "listings.txt"


def slow_listing(scene, seconds):
    """Return what lets a victim's listing take so long, and be counted."""

    def plant():
        walk = FileInput.iter_files

        def counted(self, account=None):
            with listings(scene).open("a") as file:
                file.write(".")
            time.sleep(seconds)
            return walk(self, account)

        FileInput.iter_files = counted

    return plant


def start_all(scene, seconds):
    """Start eight drivers at once; return their processes once one of them lists."""
    started = [
        part_of(scene, index, NUM_DRIVERS).start(slow_listing(scene, seconds)) for index in range(NUM_DRIVERS)
    ]
    while not listings(scene).exists():
        time.sleep(0.01)
    return started


def test_eight_drivers_list_once(scene):
    """Seven of them wait for the eighth's manifest, and make what one driver makes."""
    codes = [wait(pid) for pid in start_all(scene, 2.0)]

    assert codes == [0] * NUM_DRIVERS, scene.log.read_text()
    assert listings(scene).read_text() == "."
    assert scene.final_problems() == []


def test_a_lister_that_dies_is_followed_by_one_other(scene):
    """The kernel lets go of what it held, and the next driver lists."""
    first = part_of(scene, 0, 2).start(slow_listing(scene, 60.0))
    while not listings(scene).exists():
        time.sleep(0.01)
    others = [part_of(scene, index, 2).start(slow_listing(scene, 0.5)) for index in (1, 0)]
    time.sleep(0.5)
    waited = listings(scene).read_text()
    kill(first)

    assert [wait(pid) for pid in others] == [0, 0], scene.log.read_text()
    assert (waited, listings(scene).read_text()) == (".", "..")
    assert scene.final_problems() == []


def test_a_lister_that_lives_and_freezes_nothing_is_not_waited_for_for_ever(scene, monkeypatch, caplog):
    """The other lists by itself, as both did before."""
    monkeypatch.setattr(listing_turn, "PATIENCE_S", 0.1)
    monkeypatch.setattr(listing_turn, "PAUSE_S", 0.05)
    with LocalStore(scene.output).hold(LISTING), contextlib.ExitStack() as turn:
        preparation = prepare(part_of(scene, 0, 2).config, turn)

    assert len(preparation.manifest) == 16
    assert "waited 0 s for another driver's listing" in caplog.text


def test_whoever_waits_for_nothing_writes_nothing(scene):
    """A driver of the whole, and a look at the machines alone, hold no turn."""
    with contextlib.ExitStack() as turn:
        prepare(scene.config, turn)
    prepare(part_of(scene, 0, 2).config)

    assert not scene.output.exists()


def test_a_lister_that_fails_lets_another_list(scene):
    """What it held goes with the turn, before anything is frozen."""
    with contextlib.ExitStack() as turn:
        prepare(part_of(scene, 0, 2).config, turn)
    with LocalStore(scene.output).hold(LISTING):
        pass

    assert not any((scene.output / name).exists() for name in (MANIFEST, RUN_INFO))
