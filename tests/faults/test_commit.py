"""Named cases of commits that go wrong between two runs; the campaigns try them at every call."""

import contextlib
import os

import pytest

import sam_engine.annotation.worker
from pipelines.auto_annotate import run
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.verify import verify_dataset
from sam_engine.errors import StorageError
from sam_engine.storage.local import LocalStore
from tests.helpers import fakes


@pytest.fixture
def config(tmp_path):
    """Settings of a run of six images in three shards."""
    folder = fakes.write_images(tmp_path / "in", 6)
    return fakes.run_settings(
        input=str(folder), output=str(tmp_path / "out"), shard_size=2, amg__points_per_side=1
    )


def inodes(output):
    return {path.name: path.stat().st_ino for path in (output / "annotations").iterdir()}


def test_a_shard_whose_report_was_lost_is_adopted(config, tmp_path, monkeypatch):
    """The worker published and failed before it could say so: the next attempt finds it, as it is."""
    publish, published = sam_engine.annotation.worker.publish_shard, []

    def publish_and_fail(*args, **kwargs):
        result = publish(*args, **kwargs)
        published.append((result.adopted, inodes(tmp_path / "out")["shard-000000.parquet"]))
        if len(published) == 1:
            raise ConnectionError("the reply was lost")
        return result

    monkeypatch.setattr(sam_engine.annotation.worker, "publish_shard", publish_and_fail)
    code = run(config, fakes.make_disc_segmenter)

    assert code == 0
    assert [adopted for adopted, _ in published] == [False, True, False, False]
    assert {inode for _, inode in published} == {published[0][1]}
    assert verify_dataset(open_dataset(tmp_path / "out")).problems == []


def test_a_zombie_changes_nothing_that_was_published(config, tmp_path, monkeypatch):
    """It stands before its first commit until another run, the lock defeated, has ended; its masks differ."""
    link, overtaken = os.link, []

    def overtake_before_linking(source, target):
        if "annotations" in str(target) and not overtaken:
            overtaken.append(None)
            overtaken[0] = run(config, fakes.make_disc_segmenter), inodes(tmp_path / "out")
        link(source, target)

    monkeypatch.setattr(LocalStore, "lock", lambda self, partition=None: contextlib.nullcontext())
    monkeypatch.setattr(os, "link", overtake_before_linking)
    zombie_code = run(config, lambda: fakes.DiscSegmenter((20.0, 25.0, 35.0)))
    code, before = overtaken[0]

    assert (code, zombie_code) == (0, 0)
    assert inodes(tmp_path / "out") == before
    assert verify_dataset(open_dataset(tmp_path / "out")).problems == []


def test_a_run_that_cannot_settle_what_it_finds_stops(config, tmp_path, monkeypatch):
    """What a killed run left is not built upon before it is certain to last: no shard is made."""

    def settle(store):
        raise StorageError("it is not certain that it lasts")

    monkeypatch.setattr(LocalStore, "settle", settle)

    with pytest.raises(StorageError, match="not certain"):
        run(config, fakes.make_disc_segmenter)
    assert not (tmp_path / "out/annotations").exists()
