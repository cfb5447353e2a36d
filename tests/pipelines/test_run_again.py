"""The same command again: it goes on, or says why it cannot."""

import os

import pytest

from pipelines.auto_annotate import run
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import FingerprintError
from tests.helpers import fakes
from tests.helpers.annotating import annotate, read_json


def tree(folder):
    """Return every file below a folder with its content and time, but for the lock."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.glob("**/*")
        if path.is_file() and path.name != "lock"
    }


def test_second_run_does_nothing(tmp_path, capsys):
    """Nothing is written, nothing is computed; it says so and is content."""
    fakes.write_images(tmp_path / "in", 5)
    annotate(tmp_path / "in", tmp_path / "out", shard_size=2, previews=2)
    before = tree(tmp_path / "out")
    capsys.readouterr()

    assert annotate(tmp_path / "in", tmp_path / "out", shard_size=2, previews=2) == 0
    assert "speed     nothing was left to do" in capsys.readouterr().out
    assert tree(tmp_path / "out") == before


def test_lost_shard_is_made_again(tmp_path):
    """The shards themselves say what is done: delete one and it comes back, the same to the byte."""
    fakes.write_images(tmp_path / "in", 6)
    annotate(tmp_path / "in", tmp_path / "out", shard_size=2)
    before = fakes.shard_bytes(tmp_path / "out")
    (tmp_path / "out/annotations/shard-000001.parquet").unlink()

    assert annotate(tmp_path / "in", tmp_path / "out", shard_size=2) == 0
    assert fakes.shard_bytes(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"amg__points_per_side": 3}, "amg.points_per_side is 2 there and 3 here"),
        ({"shard_size": 3}, "shard_size is 2 there and 3 here"),
        ({"decode__exif": False}, "decode.exif is true there and false here"),
        ({"executor__threads_per_worker": 2}, "executor.threads_per_worker is 1 there and 2 here"),
        ({"model__name": "vit_b"}, 'model.name is "tiny" there and "vit_b" here'),
        ({"limit": 2}, "limit is null there and 2 here"),
    ],
)
def test_dataset_of_other_settings_is_refused(tmp_path, changes, message):
    """The message names what differs, with both values, and nothing is touched."""
    fakes.write_images(tmp_path / "in", 4)
    annotate(tmp_path / "in", tmp_path / "out", shard_size=2)
    before = tree(tmp_path / "out")

    with pytest.raises(FingerprintError) as caught:
        annotate(tmp_path / "in", tmp_path / "out", **{"shard_size": 2, **changes})
    assert message in str(caught.value)
    assert tree(tmp_path / "out") == before


def test_other_input_is_refused(tmp_path):
    """A dataset belongs to its folder of images."""
    fakes.write_images(tmp_path / "in", 4)
    fakes.write_images(tmp_path / "other", 3)
    annotate(tmp_path / "in", tmp_path / "out")

    with pytest.raises(FingerprintError, match=r"input is .*/in\" there and .*/other\" here"):
        annotate(tmp_path / "other", tmp_path / "out")


def test_moved_input_is_the_same_input(tmp_path):
    """The same files elsewhere, with times of their own, go on with the dataset."""
    fakes.write_images(tmp_path / "in", 4)
    annotate(tmp_path / "in", tmp_path / "out", shard_size=2)
    before = fakes.shard_bytes(tmp_path / "out")
    (tmp_path / "out/annotations/shard-000001.parquet").unlink()
    (tmp_path / "in").rename(tmp_path / "moved")
    for path in (tmp_path / "moved").iterdir():
        os.utime(path, ns=(1, 1))

    assert annotate(tmp_path / "moved", tmp_path / "out", shard_size=2) == 0
    assert fakes.shard_bytes(tmp_path / "out") == before


def test_new_and_vanished_files_are_mentioned(tmp_path, capsys):
    """The frozen manifest stays: new files are left out, vanished ones keep their rows."""
    fakes.write_images(tmp_path / "in", 4)
    annotate(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/000.png").unlink()
    fakes.write_image(tmp_path / "in/new.png")
    fakes.write_image(tmp_path / "in/newer.png")

    assert annotate(tmp_path / "in", tmp_path / "out") == 0
    err = capsys.readouterr().err
    assert "2 images are new since the dataset was started and are left out" in err
    assert "1 images have vanished since the dataset was started" in err
    assert open_dataset(tmp_path / "out").num_images == 4


def test_things_that_do_not_matter_may_change(tmp_path):
    """Read-ahead, previews and the allowed failures are no part of a dataset's identity."""
    fakes.write_images(tmp_path / "in", 4)
    annotate(tmp_path / "in", tmp_path / "out")

    assert annotate(tmp_path / "in", tmp_path / "out", executor__decode_threads=5, previews=3) == 0


def test_limit_and_sample_choose_before_the_first_shard(tmp_path):
    """The manifest holds the chosen images only."""
    fakes.write_images(tmp_path / "in", 20)
    annotate(tmp_path / "in", tmp_path / "first", limit=3)
    annotate(tmp_path / "in", tmp_path / "tenth", sample=0.1, seed=1)

    assert [r.path for r in open_dataset(tmp_path / "first").records()] == [
        b"000.png",
        b"001.png",
        b"002.png",
    ]
    assert open_dataset(tmp_path / "tenth").num_images == 2


def test_run_of_a_real_network_repeats_to_the_byte(tmp_path):
    """A reduced network with seeded weights: two runs, same shards; the card says it was never trained."""
    fakes.write_images(tmp_path / "in", 3)
    loose = {"amg__pred_iou_thresh": -100.0, "amg__stability_score_thresh": 0.0}
    for name in ("a", "b"):
        config = fakes.run_settings(input=str(tmp_path / "in"), output=str(tmp_path / name), **loose)
        assert run(config, fakes.make_reduced_tiny) == 0

    assert fakes.shard_bytes(tmp_path / "a") == fakes.shard_bytes(tmp_path / "b")
    assert read_json(tmp_path / "a", "_meta/run.json")["random_weights"] is True
    assert "Made with random weights" in (tmp_path / "a/README.md").read_text()
