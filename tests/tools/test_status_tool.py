"""tools.status: how far a dataset is, from its files alone."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
import socket
import time

import pytest

from sam_engine.annotation.run import annotate_dataset
from sam_engine.annotation.status import WINDOW_S, status_of
from sam_engine.annotation.worker_speeds import (
    LATEST_SHARDS,
    WORKERS_PREFIX,
    WRITTEN_EVERY_S,
    SpeedLog,
    worker_speeds,
)
from sam_engine.dataset.reader import open_dataset
from sam_engine.storage.local import LocalStore
from sam_engine.structures import Partition, Shard, ShardReport
from tests.helpers import fakes
from tools.command import run
from tools.status import main

NOW = 1_000_000.0


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Settings of a run of 12 images in 6 shards, one image broken, and the 3 shards of its first part."""
    root = tmp_path_factory.mktemp("status")
    photos = fakes.write_images(root / "in", 12)
    (photos / "000.png").write_bytes(b"<html>404</html>")
    config = fakes.run_settings(
        input=str(photos),
        output=str(root / "out"),
        shard_size=2,
        max_failed_fraction=1.0,
        amg__points_per_side=1,
        partition=Partition(index=0, count=2),
    )
    annotate_dataset(config, make_model=functools.partial(fakes.DiscSegmenter, (8.0, 10.0, 12.0), 64))
    return config


@pytest.fixture
def output(half, tmp_path):
    """A copy whose shards were published at seconds 0, 10 and 20 before NOW."""
    out = tmp_path / "out"
    shutil.copytree(half.output, out)
    for number, path in enumerate(sorted((out / "annotations").iterdir())):
        os.utime(path, (NOW - 20 + 10 * number,) * 2)
    return out


def test_speed_is_that_of_all_drivers(output):
    """Images of all shards but the oldest, over the time between the oldest and the newest."""
    status = status_of(open_dataset(output), NOW + 5)

    assert (status.num_shards, status.num_shards_planned) == (3, 6)
    assert (status.num_images, status.num_images_planned) == (6, 12)
    assert (status.images_per_second, status.seconds_left) == (4 / 20, 6 / 0.2)
    assert status.seconds_since_last == 5


def test_a_pause_does_not_slow_it_down(output):
    """What was made hours before counts for nothing."""
    first = min((output / "annotations").iterdir())
    os.utime(first, (NOW - 5 * WINDOW_S,) * 2)

    assert status_of(open_dataset(output), NOW).images_per_second == 2 / 10


def test_one_shard_tells_no_speed(output):
    """And no time that is left."""
    for path in sorted((output / "annotations").iterdir())[1:]:
        path.unlink()
    status = status_of(open_dataset(output), NOW)

    assert (status.images_per_second, status.seconds_left) == (None, None)


def test_it_is_said_in_lines_and_in_json(output, capsys):
    """The same numbers."""
    assert run(main, [str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert run(main, [str(output), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    assert lines[0] == f"{output}: not finished"
    assert lines[1:3] == ["shards    3 of 6", "images    6 of 12"]
    assert lines[4] == "failures  1 (1 unsupported)"
    assert lines[5].startswith("speed     0.20 images/s, ")
    assert lines[6].startswith("left      0:00:30, if drivers are at work: the last shard is ")
    assert (document["is_finished"], document["failures"]) == (False, {"unsupported": 1})


def test_watching_ends_when_it_is_finished(half, output, capsys, monkeypatch):
    """A driver of the rest comes along while it looks away."""

    def make_the_rest(_):
        config = dataclasses.replace(half, output=str(output), partition=Partition(index=1, count=2))
        model = functools.partial(fakes.DiscSegmenter, (8.0, 10.0, 12.0), 64)
        annotate_dataset(config, make_model=model)

    monkeypatch.setattr(time, "sleep", make_the_rest)
    code = run(main, [str(output), "--watch", "--json"])
    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert code == 0
    assert [(look["is_finished"], look["num_images"]) for look in looks] == [(False, 6), (True, 12)]
    assert looks[1]["seconds_left"] == 0


def speed_log(output, speeds, index=0):
    """Let a driver write what its workers took for shards of ten images; return the file."""
    times = itertools.count(0.0, WRITTEN_EVERY_S)
    log = SpeedLog(LocalStore(output), Partition(index=index, count=2), clock=lambda: next(times))
    shard = Shard(index=0, start=0, stop=10)
    for worker, seconds in speeds:
        log.heard(ShardReport(shard=shard, worker=worker, device="cpu", seconds=seconds))
    path = output / WORKERS_PREFIX / f"part-{index}-of-2.json"
    os.utime(path, (NOW, NOW))
    return path


def test_the_slowest_workers_are_named(output, capsys):
    """Of all drivers, with their machine and process; by their latest shards."""
    speed_log(output, [("a:1", 40.0)] + [("a:1", 5.0)] * LATEST_SHARDS + [("a:2", 10.0)])
    speed_log(output, [("b:1", 50.0), ("b:2", 20.0)], index=1)
    status = status_of(open_dataset(output), NOW)
    main([str(output)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("slowest")]

    assert [(each.worker, each.images_per_second) for each in status.slowest] == [
        ("b:1", 0.2), ("b:2", 0.5), ("a:2", 1.0),
    ]  # fmt: skip
    assert (status.num_workers, status.median_images_per_second) == (4, 0.75)
    assert lines == [
        "slowest   0.20 images/s, b:1 on cpu",
        "slowest   0.50 images/s, b:2 on cpu",
        "slowest   1.00 images/s, a:2 on cpu (median of 4 workers: 0.75)",
    ]


def test_workers_of_long_ago_are_not_counted(output):
    """Nor what cannot be read."""
    speed_log(output, [("b:1", 50.0)], index=1).write_bytes(b"[{]")
    os.utime(speed_log(output, [("a:1", 40.0)]), (NOW - 2 * WINDOW_S,) * 2)

    assert status_of(open_dataset(output), NOW).num_workers == 0


def test_a_run_says_who_its_workers_are(half, tmp_path, monkeypatch):
    """This process on this machine, each half minute: here after each shard."""
    monkeypatch.setattr("sam_engine.annotation.worker_speeds.WRITTEN_EVERY_S", 0.0)
    config = dataclasses.replace(half, output=str(tmp_path / "out"), partition=Partition())
    annotate_dataset(config, make_model=functools.partial(fakes.DiscSegmenter, (8.0, 10.0, 12.0), 64))
    [worker] = worker_speeds(LocalStore(tmp_path / "out"), 0.0)

    assert worker.worker == f"{socket.gethostname()}:{os.getpid()}"
    assert (worker.device, worker.num_images) == ("cpu", 12)
    assert worker.images_per_second > 0


def test_a_short_run_leaves_nothing_about_workers(half):
    """It was over before the first writing."""
    assert not (LocalStore(half.output).root / WORKERS_PREFIX).exists()


def test_what_is_no_dataset_is_a_mistake(tmp_path, capsys):
    """Exit code 2, one line."""
    assert run(main, [str(tmp_path)]) == 2
    assert "is not a dataset" in capsys.readouterr().err
