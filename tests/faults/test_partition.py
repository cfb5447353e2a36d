"""Several drivers on one output, each with its part of the shards."""

import dataclasses
import json
import os
import time

import pytest

from pipelines.auto_annotate import run
from sam_engine.annotation.plan import open_run
from sam_engine.annotation.preparation import prepare
from sam_engine.annotation.run import annotate_dataset
from sam_engine.config import AutoAnnotateConfig
from sam_engine.dataset.schema import MANIFEST, RUN_INFO, SUCCESS
from sam_engine.dataset.shards import shard_name
from sam_engine.errors import ConfigError, FingerprintError, LockedError
from sam_engine.inputs.source import FileInput
from sam_engine.storage.left_behind import DEAD_ELSEWHERE_S
from sam_engine.storage.local import LocalStore
from sam_engine.storage.store import TEMPORARY
from sam_engine.structures import Partition
from tests.faults.drivers import part_of
from tests.faults.scene import fast_model, kill, make_scene, wait
from tests.faults.zombies import defeat_lock
from tests.helpers import fakes


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A place where one driver was at work, and what came of it."""
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def scene(whole):
    whole.clear()
    return whole


@pytest.mark.parametrize("num_killed", [0, 3])
def test_drivers_that_start_at_once_make_what_one_makes(scene, num_killed):
    """Eight on an empty output, some killed and started again: the same bytes, file by file."""
    drivers = [part_of(scene, index, 8) for index in range(8)]
    started = [driver.start() for driver in drivers]
    time.sleep(0.05 * num_killed)
    codes = [kill(pid) for pid in started[:num_killed]] + [wait(pid) for pid in started[num_killed:]]
    again = [driver.run() for driver in drivers[:num_killed]]

    assert (set(codes) <= {0, -9}, set(again) <= {0}) == (True, True), scene.log.read_text()
    assert scene.final_problems() == []


def test_the_same_part_twice_without_locks_is_harmless(scene):
    """Where the file system has none, work is done twice; what is published is the same."""
    drivers = [part_of(scene, index, 2) for index in (0, 0, 1, 1)]
    codes = [wait(pid) for pid in [driver.start(defeat_lock) for driver in drivers]]

    assert codes == [0] * 4, scene.log.read_text()
    assert scene.final_problems() == []


def test_a_part_is_held_alone_and_beside_others(scene):
    """A second driver of it is refused with exit code 5, as is one of the whole; another part is not."""
    config = part_of(scene, 0, 2).config
    with LocalStore(scene.output).lock(config.partition):
        with pytest.raises(LockedError, match=f"process {os.getpid()} on") as caught:
            annotate_dataset(config, make_model=fast_model)
        with pytest.raises(LockedError, match="drivers of 2 parts"):
            annotate_dataset(scene.config, make_model=fast_model)
        summary = annotate_dataset(part_of(scene, 1, 2).config, make_model=fast_model)

    assert (caught.value.exit_code, summary.exit_code) == (5, 0)


def test_the_whole_is_held_against_parts(scene):
    """A repair, say, is not disturbed by a driver of a part."""
    with LocalStore(scene.output).lock(), pytest.raises(LockedError, match="process"):
        annotate_dataset(part_of(scene, 0, 2).config, make_model=fast_model)


def test_a_part_that_is_done_first_leaves_the_rest_to_the_others(scene, capsys):
    """It says how many shards are open elsewhere, ends with 0, and calls nothing finished."""
    code = run(part_of(scene, 1, 3).config, fast_model)

    assert code == 0
    assert "\npart 1 of 3 done, 5 shards open elsewhere\n" in capsys.readouterr().out
    made = {name for name in scene.files() if not name.startswith("_meta/")}
    assert made == {shard_name(index) for index in (1, 4, 7)}


def test_whoever_finds_all_shards_finishes(scene):
    """Also one that had nothing left to do, as when the last driver was killed after its last shard."""
    for index in (0, 1):
        part_of(scene, index, 2).run()
    (scene.output / SUCCESS).unlink()
    code = part_of(scene, 0, 2).run()

    assert code == 0
    assert scene.final_problems() == []


def test_two_finishers_at_once_write_one_dataset(scene, monkeypatch):
    """One stands before its first file until the other has written all of them."""
    drivers = [part_of(scene, index, 2).config for index in (0, 1)]
    annotate_dataset(drivers[0], make_model=fast_model)
    errors_jsonl, seen = "sam_engine.annotation.run.errors_jsonl", []

    def after_the_other(store, summaries):
        monkeypatch.undo()
        seen.append(annotate_dataset(drivers[0], make_model=fast_model))
        seen.append(scene.files()[SUCCESS])
        from sam_engine.annotation.report import errors_jsonl

        return errors_jsonl(store, summaries)

    monkeypatch.setattr(errors_jsonl, after_the_other)
    summary = annotate_dataset(drivers[1], make_model=fast_model)

    assert (seen[0].exit_code, summary.exit_code) == (0, 0)
    assert seen[1] == scene.files()[SUCCESS]
    assert scene.final_problems() == []


def test_what_arrives_while_drivers_start_is_left_out_by_all(tmp_path):
    """The first manifest wins; the other driver goes by it, and says what it lacks."""
    photos = fakes.write_images(tmp_path / "in", 6)
    config = fakes.run_settings(input=str(photos), output=str(tmp_path / "out"), shard_size=2)
    first, second = (
        dataclasses.replace(config, partition=Partition(index=index, count=2)) for index in (0, 1)
    )
    early = prepare(first)
    fakes.write_image(photos / "late.png")
    late = prepare(second)
    plans = [open_run(early), open_run(late)]

    assert [len(plan.manifest) for plan in plans] == [6, 6]
    assert plans[0].info.fingerprint == plans[1].info.fingerprint
    assert plans[1].notes[0].startswith("1 images are new since the dataset was started")


def test_a_driver_that_comes_later_lists_nothing(tmp_path, monkeypatch):
    """It goes by the frozen listing; one of another input, or of other images, does not."""
    photos = fakes.write_images(tmp_path / "in", 6)
    config = fakes.run_settings(input=str(photos), output=str(tmp_path / "out"), shard_size=2)
    first, second = (
        dataclasses.replace(config, partition=Partition(index=index, count=2)) for index in (0, 1)
    )
    frozen = open_run(prepare(first)).manifest
    with monkeypatch.context() as patch:
        patch.setattr(FileInput, "iter_files", lambda *_: pytest.fail("the input was listed"))
        late = prepare(second)

    assert late.manifest.table.equals(frozen.table)
    assert open_run(late).notes == []
    with pytest.raises(FingerprintError, match="limit is null there and 4 here"):
        open_run(prepare(dataclasses.replace(second, limit=4)))


def test_a_manifest_of_other_images_is_not_adopted(tmp_path):
    """A start of other settings that died before its run.json is no start of ours."""
    photos = fakes.write_images(tmp_path / "in", 6)
    config = fakes.run_settings(input=str(photos), output=str(tmp_path / "out"), limit=4)
    open_run(prepare(config))
    (tmp_path / "out" / RUN_INFO).unlink()
    part = Partition(index=0, count=2)

    with pytest.raises(FingerprintError, match="limit is 4 there and null here"):
        open_run(prepare(dataclasses.replace(config, limit=None, partition=part)))


def test_the_manifest_of_a_part_is_that_of_the_whole(scene):
    """To the byte: drivers may come and go in any number."""
    open_run(prepare(part_of(scene, 0, 2).config))

    assert (scene.output / MANIFEST).read_bytes() == scene.reference[MANIFEST]
    assert json.loads((scene.output / RUN_INFO).read_bytes()) == json.loads(scene.reference[RUN_INFO])


def test_a_dataset_that_begins_while_it_is_listed_is_not_foreign(scene, monkeypatch):
    """A shard may be seen whose run.json was not yet there when its folder was listed."""
    annotate_dataset(part_of(scene, 0, 2).config, make_model=fast_model)
    has, asked = LocalStore.has, []

    def without_run_info_at_first(store, name):
        asked.append(name)
        return has(store, name) and (name != RUN_INFO or asked.count(name) > 1)

    monkeypatch.setattr(LocalStore, "has", without_run_info_at_first)

    assert prepare(part_of(scene, 1, 2).config).store.root == scene.output


@pytest.mark.parametrize(("age_s", "is_kept"), [(0, True), (DEAD_ELSEWHERE_S + 60, False)])
def test_temporaries_of_another_machine_are_kept_while_they_are_new(tmp_path, age_s, is_kept, monkeypatch):
    """Its locks need not be visible here."""
    path = tmp_path / TEMPORARY / "another-machine-0123"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a shard")
    os.utime(path, (time.time() - age_s,) * 2)
    LocalStore(tmp_path).delete_own_temporaries()

    assert path.exists() == is_kept


def test_failures_are_not_retried_by_parts(scene):
    """Shards are then taken out of the dataset, which the drivers of other parts do not know of."""
    config = dataclasses.replace(part_of(scene, 0, 2).config, retry_failed=True)

    with pytest.raises(ConfigError, match="retry_failed=true is for one driver"):
        annotate_dataset(config, make_model=fast_model)


@pytest.mark.parametrize(
    ("index", "count", "message"),
    [
        (4, 4, "partition.index must be below partition.count, got 4"),
        (-1, 4, "got -1"),
        (0, 0, "partition.count must be at least 1, got 0"),
        (True, 4, "got True"),
    ],
)
def test_a_part_that_there_is_not_is_refused(index, count, message):
    """Counted from 0."""
    with pytest.raises(ConfigError, match=message):
        AutoAnnotateConfig(partition=Partition(index=index, count=count))
