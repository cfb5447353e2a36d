"""Shards on workers that die, raise, hang or never start; in this process and on Ray."""

import functools
import itertools
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipelines.auto_annotate import run
from sam_engine.annotation.ray_survey import survey_on_ray
from sam_engine.annotation.run_shards import run_shards
from sam_engine.cluster.ray_session import check_reachable, ray_session, short_temporary_directory
from sam_engine.config import ExecutorConfig
from sam_engine.dataset.manifest import cut_shards
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError, ModelLoadError, StorageError
from sam_engine.structures import ShardReport
from tests.helpers import fake_workers, fakes
from tests.helpers.process_tree import descendants, survivors

PYTHONPATH = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, shared by the tests of this module: starting it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PYTHONPATH)
        with ray_session(ExecutorConfig(num_workers=2)):
            yield


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.ray)])
def executor(request):
    """Both ways to run shards; what holds for one holds for the other."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return request.param


def outcome(executor, tmp_path, *, trouble=None, num_images=12, make_worker=None, **settings):
    """Return the reports by shard, and the images as often as they were touched."""
    log = tmp_path / "images.log"
    config = ExecutorConfig(**{"name": executor, "num_workers": 2, **settings})
    make_worker = make_worker or functools.partial(fake_workers.CountingWorker, log, trouble or {})
    events = list(run_shards(cut_shards(num_images, 4), make_worker, config, device="cpu"))
    reports = [event for event in events if isinstance(event, ShardReport)]

    assert len({report.shard.index for report in reports}) == len(reports)
    return {report.shard.index: report for report in reports}, log.read_text().split()


def test_every_shard_is_reported_once(executor, tmp_path):
    """More shards than workers: none is lost, none is done twice."""
    reports, touched = outcome(executor, tmp_path, num_images=26)

    assert sorted(reports) == list(range(7))
    assert sum(report.shard.num_images for report in reports.values()) == 26
    assert sorted(map(int, touched)) == list(range(26))


def test_nothing_to_do_starts_nothing():
    """A finished dataset does not wait for Ray."""
    assert list(run_shards([], fake_workers.fail_to_load, ExecutorConfig())) == []


def test_image_that_raises_is_given_up_alone(executor, tmp_path):
    """After two tries its row says so; neighbours and other shards are whole."""
    reports, touched = outcome(executor, tmp_path, trouble={5: "raise"})

    assert [dict(reports[index].statuses) for index in range(3)] == [
        {"ok": 4}, {"ok": 3, "worker_crash": 1}, {"ok": 4},
    ]  # fmt: skip
    assert touched.count("5") == 2


def test_shard_that_is_hopeless_is_named(executor, tmp_path):
    """The report has the reason; the rest is done."""
    reports, _ = outcome(executor, tmp_path, trouble={5: "raise"}, max_shard_attempts=1)

    assert [reports[index].error for index in range(3)] == [
        None, "IndexError: no such thing (after 1 attempts)", None,
    ]  # fmt: skip


def test_failure_of_publishing_is_no_images_fault(executor, tmp_path):
    """Every attempt fails: the shard is given up with the reason, and no row blames its last image."""
    reports, touched = outcome(executor, tmp_path, trouble={-1: "raise"}, num_images=4)

    assert reports[0].error == "IndexError: no such thing (after 3 attempts)"
    assert sorted(map(int, touched)) == sorted([0, 1, 2, 3] * 3)


def test_sick_machine_stops_the_run(executor, tmp_path):
    """After an error that outlives its process, fresh workers fail before they get an image to blame."""
    with pytest.raises(ModelLoadError, match="CUDA error: an illegal memory access"):
        outcome(executor, tmp_path, trouble={1: "sicken"}, num_workers=1)

    assert (tmp_path / "images.log").read_text().split() == ["0", "1"]


def test_full_disk_stops_the_run_with_its_own_error(executor, tmp_path):
    """Another worker would find the disk as full: no retries."""
    with pytest.raises(StorageError, match=r"^/out: No space left on device$"):
        outcome(executor, tmp_path, trouble={5: "storage"})


def test_model_that_cannot_load_stops_the_run(executor, tmp_path):
    """The reason is in the message, and the workers are not started for ever."""
    with pytest.raises(ModelLoadError, match="RuntimeError: the weights are from another planet"):
        outcome(executor, tmp_path, make_worker=fake_workers.fail_to_load)


def test_setting_that_no_worker_can_follow_is_a_setting_error(executor, tmp_path):
    """A device that is not there is the user's to change: exit 2, not 1."""
    with pytest.raises(ConfigError, match="torch finds no CUDA device here"):
        outcome(executor, tmp_path, make_worker=fake_workers.refuse_to_load)


def test_cluster_that_is_not_there_is_found_out_at_once():
    """Ray itself would try for minutes. Other forms of address are left to it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]  # ours, and nobody listens
        with pytest.raises(ConnectionRefusedError):
            check_reachable(f"127.0.0.1:{port}")
        listener.listen()
        check_reachable(f"127.0.0.1:{port}")

    check_reachable("auto")


@pytest.mark.ray
def test_shard_of_a_dead_worker_is_done_again(cluster, tmp_path):
    """A killed process costs its shard one attempt; no image gets the blame."""
    reports, touched = outcome("ray", tmp_path, trouble={5: "die-once"})

    assert {index: dict(report.statuses) for index, report in reports.items()} == {
        0: {"ok": 4}, 1: {"ok": 4}, 2: {"ok": 4},
    }  # fmt: skip
    assert touched.count("5") == 2


@pytest.mark.ray
@pytest.mark.parametrize(("num_workers", "touches"), [(1, {3}), (2, {3, 4})])
def test_image_that_kills_its_worker_is_found(cluster, tmp_path, num_workers, touches):
    """Its row is a worker_crash with a reason; every other image of the shard is kept.

    A second worker may begin the shard before Ray tells of the death, and die of it, too.
    """
    reports, touched = outcome("ray", tmp_path, trouble={6: "die"}, num_workers=num_workers)

    assert dict(reports[1].statuses) == {"ok": 3, "worker_crash": 1}
    assert [reports[0].error, reports[2].error] == [None, None]
    assert touched.count("6") in touches


@pytest.mark.ray
def test_image_that_hangs_is_a_timeout(cluster, tmp_path):
    """A worker without a sign of life is replaced; the image in hand is to blame the second time."""
    reports, touched = outcome("ray", tmp_path, trouble={6: "hang"}, shard_timeout_s=1.5)

    assert dict(reports[1].statuses) == {"ok": 3, "timeout": 1}
    assert touched.count("6") == 2


@pytest.mark.ray
def test_last_worker_that_cannot_be_replaced_stops_the_run(cluster, tmp_path):
    """Others failed to start while it worked; when it is gone too, the run does not wait for ever."""
    make_worker = functools.partial(fake_workers.load_once, tmp_path / "images.log")

    with pytest.raises(ModelLoadError, match="MemoryError: no room for another model"):
        outcome("ray", tmp_path, make_worker=make_worker, num_images=40)


@pytest.mark.ray
def test_workers_that_die_while_loading_stop_the_run(cluster, tmp_path):
    """A model that needs more memory than there is would otherwise be loaded for ever."""
    with pytest.raises(ModelLoadError, match="3 workers in a row could not load the model: its process died"):
        outcome("ray", tmp_path, make_worker=fake_workers.die_while_loading, num_workers=1)


@pytest.mark.ray
def test_ray_and_inline_give_the_same_bytes(cluster, tmp_path):
    """Workers of a seeded network publish the very shards that one process does, in any order."""
    fakes.write_images(tmp_path / "in", 7)
    for executor in ("inline", "ray"):
        config = fakes.run_settings(
            input=str(tmp_path / "in"),
            output=str(tmp_path / executor),
            shard_size=2,
            executor__name=executor,
            amg__pred_iou_thresh=-100.0,
            amg__stability_score_thresh=0.0,
        )
        assert run(config, fakes.make_reduced_tiny) == 0

    assert fakes.shard_bytes(tmp_path / "ray") == fakes.shard_bytes(tmp_path / "inline")
    assert len(fakes.shard_bytes(tmp_path / "ray")) == 4


@pytest.mark.ray
def test_poisoned_folder_is_annotated_but_for_the_poison(cluster, tmp_path):
    """An image that kills every process that looks at it ends as a row of a finished dataset."""
    fakes.write_images(tmp_path / "in", 6)
    fakes.write_image(tmp_path / "in/003.png", fakes.DEADLY)
    config = fakes.run_settings(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), shard_size=3, executor__name="ray"
    )
    code = run(config, fakes.make_troubled_segmenter)
    rows = list(open_dataset(tmp_path / "out").records())

    assert code == 3
    assert [str(row.status) for row in rows] == ["ok", "ok", "ok", "worker_crash", "ok", "ok"]
    assert rows[3].error == "the worker died"  # the same in every run: Ray's own words name processes


@pytest.mark.ray
def test_every_place_of_a_worker_is_tried_before_a_run(cluster):
    """Two at once; one kills what looks at it, which its machine is refused by; the other answers."""
    numbers = itertools.count(4)
    checks = survey_on_ray(
        lambda device: functools.partial(fake_workers.check_machine, next(numbers)),
        ExecutorConfig(name="ray", num_workers=2),
        "cpu",
    )
    sound, dead = sorted(checks, key=lambda check: check.problems)

    assert {check.host for check in checks} == {socket.gethostname()}
    assert (sound.num_images, sound.problems) == (4, ())
    assert dead.problems[0].startswith("its process died: ")


SCRIPT = """
import functools, os, sys
from tests.helpers import fakes
from pipelines import auto_annotate
make_model = functools.partial(fakes.make_troubled_segmenter, float(os.environ.get("IMAGE_S", 0.05)))
auto_annotate.run = functools.partial(auto_annotate.run, make_model=make_model)
sys.exit(auto_annotate.command_line(sys.argv[1:]))
"""


def start(folder, output, *more, **environment):
    """Start the program with Ray in a process of its own; its environment knows no cluster."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    arguments = [
        f"input={folder}", f"output={output}", "shard_size=2", "model.checkpoint=random", "previews=0",
        "amg.points_per_side=2", "amg.points_per_batch=16", "amg.min_mask_region_area=0",
        "executor=ray", "executor.num_workers=2", *more,
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**clean, "PYTHONPATH": PYTHONPATH, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def workers_among(processes):
    """Return the ids of our actors."""
    return [pid for pid, line in processes.items() if line.startswith("ray::Actor")]


def wait_until(condition, process, timeout_s=90):
    """Return what ``condition`` gives once it is true."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
    return value


@pytest.mark.ray
def test_killed_workers_and_driver_leave_a_run_that_goes_on(tmp_path):
    """One worker is killed, then the driver; the same command again ends with undisturbed bytes."""
    fakes.write_images(tmp_path / "in", 40)
    config = fakes.run_settings(input=str(tmp_path / "in"), output=str(tmp_path / "calm"), shard_size=2)
    run(config, fakes.make_disc_segmenter)
    shards = tmp_path / "out" / "annotations"
    first = start(tmp_path / "in", tmp_path / "out")
    wait_until(lambda: len(list(shards.glob("*.parquet"))) >= 3, first)
    workers = wait_until(lambda: workers_among(descendants(first.pid)), first)
    os.kill(workers[0], signal.SIGKILL)
    count = len(list(shards.glob("*.parquet")))
    wait_until(lambda: len(list(shards.glob("*.parquet"))) >= count + 3, first)
    family = descendants(first.pid)
    first.kill()
    first.communicate()

    assert len(list(shards.glob("*.parquet"))) < 20
    second = start(tmp_path / "in", tmp_path / "out")
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert "images    40 of 40" in out
    assert fakes.shard_bytes(tmp_path / "out") == fakes.shard_bytes(tmp_path / "calm")
    assert workers_among(survivors(family)) == []  # Ray's own helpers take up to a minute


@pytest.mark.slow
@pytest.mark.ray
def test_sigterm_stops_ray_too(tmp_path):
    """Exit 143, one line, and no worker is left behind."""
    fakes.write_images(tmp_path / "in", 40)
    process = start(tmp_path / "in", tmp_path / "out")
    wait_until(lambda: list((tmp_path / "out/annotations").glob("*.parquet")), process)
    family = descendants(process.pid)
    process.terminate()
    _, err = process.communicate(timeout=60)

    assert process.returncode == 143
    assert err.splitlines()[-1] == "stopped by SIGTERM; the same command goes on from here"
    assert workers_among(survivors(family)) == []


@pytest.mark.slow
@pytest.mark.ray
def test_cluster_is_joined_with_its_token(tmp_path):
    """executor.address= runs on a head that was there before, which outlives the run."""
    ray_program = Path(sys.executable).with_name("ray")
    folder = Path(tempfile.mkdtemp(prefix="sam-head-", dir=short_temporary_directory()))
    token = tmp_path / "token"
    token.write_text("1" * 64)
    token.chmod(0o600)
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    head = subprocess.Popen(
        [
            str(ray_program), "start", "--head", "--block", "--port=0", "--num-cpus=2", "--num-gpus=0",
            "--include-dashboard=false", f"--temp-dir={folder}", "--object-store-memory=100000000",
            "--disable-usage-stats", "--node-ip-address=127.0.0.1",
        ],
        env={**clean, **auth, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        port_file = wait_until(lambda: next(folder.glob("session_2*/gcs_server_port*"), None), head)
        port = wait_until(port_file.read_text, head)
        fakes.write_images(tmp_path / "in", 6)
        address = f"executor.address=127.0.0.1:{port}"
        process = start(tmp_path / "in", tmp_path / "out", address, **auth)
        out, err = process.communicate(timeout=120)

        assert process.returncode == 0, err
        assert "images    6 of 6" in out
        assert head.poll() is None
    finally:
        family = descendants(head.pid)
        head.terminate()
        head.communicate(timeout=30)
        for pid in survivors(family):
            os.kill(pid, signal.SIGKILL)
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
