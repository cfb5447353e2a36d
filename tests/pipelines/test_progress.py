"""What a run says while it works."""

import logging

import pytest

from pipelines.auto_annotate import run
from pipelines.progress import Progress
from sam_engine.structures import Shard, ShardProgress
from tests.helpers import fakes


def test_the_speed_is_counted_from_the_first_image(monkeypatch, caplog):
    """Not from the listing: a model that took ten minutes to load says nothing of the images to come."""
    now = [0.0]
    monkeypatch.setattr("pipelines.progress.time.monotonic", lambda: now[0])
    shard = Shard(index=0, start=0, stop=10)
    with caplog.at_level(logging.INFO), Progress("json") as progress:
        progress.start(total=10, done=0)
        now[0] = 600.0
        progress.show(ShardProgress(shard=shard, image_id=0, num_done=0, num_masks=0))
        now[0] = 610.0
        progress.show(ShardProgress(shard=shard, image_id=5, num_done=5, num_masks=9))

    assert caplog.messages[-1] == "5 of 10 images, 9 masks, 0.50 images/s, 10 s left"


def test_start_up_says_what_it_waits_for(tmp_path, capsys):
    """After what is about to be done, and before the first image."""
    fakes.write_images(tmp_path / "in", 1)
    run(
        fakes.run_settings(input=str(tmp_path / "in"), output=str(tmp_path / "out")),
        fakes.make_disc_segmenter,
    )

    assert capsys.readouterr().err.splitlines()[-1] == "loading the model"


def test_start_up_of_ray_says_what_it_waits_for(tmp_path, capsys, monkeypatch):
    """Which is longer, and has two steps."""
    monkeypatch.setattr("sam_engine.annotation.ray_pool.ray_session", fail)
    fakes.write_images(tmp_path / "in", 1)
    config = fakes.run_settings(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), executor__name="ray"
    )
    with pytest.raises(InterruptedError):
        run(config, fakes.make_disc_segmenter)

    assert capsys.readouterr().err.splitlines()[-1] == "starting Ray on this machine"


def fail(_):
    """Raise in place of starting Ray."""
    raise InterruptedError


def test_exit_3_says_why(tmp_path, capsys):
    """The last line has both numbers, the setting, and where the reasons are."""
    fakes.write_images(tmp_path / "in", 4)
    (tmp_path / "in/001.png").write_bytes((tmp_path / "in/000.png").read_bytes()[:60])
    code = run(
        fakes.run_settings(input=str(tmp_path / "in"), output=str(tmp_path / "out")),
        fakes.make_disc_segmenter,
    )

    assert code == 3
    assert capsys.readouterr().out.splitlines()[-1] == (
        "note      1 of 4 images failed, more than max_failed_fraction=0.05 allows: exit code 3; "
        "_meta/errors.jsonl names them"
    )
