"""Jobs on a real head of Ray with a token: killed and submitted again, and what is answered to mistakes."""

import contextlib
import functools
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.auto_annotate import run
from tests.helpers import fakes
from tests.helpers.process_tree import descendants
from tests.helpers.stand_in import ROOT, SETTINGS, stand_in

pytestmark = [pytest.mark.slow, pytest.mark.ray]
pytest.importorskip("aiohttp_cors", reason="ray[default] is not installed: pip install -e '.[cluster]'")


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head at work."""

    address: str
    metrics: str
    """Where Prometheus would ask."""
    token: str
    pid: int


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def head():
    """A head of two CPUs, in a process group of its own: ``ray stop`` would end those of others, too."""
    folder = tempfile.mkdtemp(prefix="r-", dir="/tmp")
    token, port, metrics = secrets.token_hex(32), free_port(), free_port()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = clean | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={free_port()}",
        f"--dashboard-port={port}", f"--metrics-export-port={metrics}", f"--temp-dir={folder}",
        "--num-cpus=3", f"--object-store-memory={80 * 2**20}",
    ]  # fmt: skip
    with (Path(folder) / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log, process_group=0
        )
    try:
        head = Head(
            address=f"http://127.0.0.1:{port}",
            metrics=f"http://127.0.0.1:{metrics}",
            token=token,
            pid=process.pid,
        )
        wait_until(lambda: answers(head) and descendants(process.pid), 300)
        yield head
    finally:
        family = descendants(process.pid)
        for pid in (process.pid, *family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def answers(head):
    """Return whether the dashboard has begun to."""
    request = urllib.request.Request(
        f"{head.address}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"}
    )
    try:
        return urllib.request.urlopen(request, timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


def wait_until(condition, timeout_s=300):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.2)
    return value


def launch(head, *arguments, token=None, address=None):
    """Start the launcher in a process of its own."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = clean | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token or head.token}
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.launch", "launch=ray_job",
         f"launch.address={address or head.address}", *arguments],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_driver_that_is_killed_is_submitted_again(head, tmp_path):
    """It finishes with the bytes of one process; the same command meanwhile follows the job that runs."""
    photos = fakes.write_images(tmp_path / "in", 40)
    calm = fakes.run_settings(
        input=str(photos), output=str(tmp_path / "calm"), shard_size=2, amg__min_mask_region_area=0
    )
    run(calm, functools.partial(fakes.make_troubled_segmenter, 0.0))
    shards, driver = tmp_path / "out/annotations", stand_in(tmp_path / "driver", 0.3)
    arguments = [
        f"launch.python={driver}", f"input={photos}", f"output={tmp_path}/out", "executor.num_workers=2",
        "executor=ray", *SETTINGS,
    ]  # fmt: skip
    first = launch(head, *arguments)
    wait_until(lambda: len(list(shards.glob("*.parquet"))) >= 2)
    [victim] = [
        pid for pid, line in descendants(head.pid).items() if line.startswith(f"{sys.executable} {driver}")
    ]
    os.kill(victim, signal.SIGKILL)
    there = len(list(shards.glob("*.parquet")))
    wait_until(lambda: len(list(shards.glob("*.parquet"))) >= there + 2)
    second = launch(head, *arguments)
    metrics = wait_until(lambda: metrics_of(head))
    said = [process.communicate(timeout=600)[1] for process in (first, second)]

    assert [first.returncode, second.returncode] == [0, 0], said
    assert re.search("-1 ended with (-9|137)", said[0]), said  # of the driver, or of the shell round it
    assert "-2 is submitted" in said[0]
    assert "-2 is RUNNING already: following it" in said[1]
    assert fakes.shard_bytes(tmp_path / "out") == fakes.shard_bytes(tmp_path / "calm")
    assert "sam_engine_shards_total{" in metrics
    assert 'outcome="published"' in metrics


def metrics_of(head):
    """Return what Prometheus would read, once a run's counters are among it."""
    try:
        text = urllib.request.urlopen(f"{head.metrics}/metrics", timeout=5).read().decode()
    except OSError:
        return ""
    lines = [line for line in text.splitlines() if "sam_engine_" in line]
    return (
        "\n".join(line.replace("ray_sam_engine", "sam_engine") for line in lines)
        if "shards_total" in text
        else ""
    )


@pytest.mark.parametrize(
    ("token", "address", "message"),
    [
        pytest.param("0" * 64, None, "set RAY_AUTH_TOKEN", id="a wrong token"),
        pytest.param(None, "http://127.0.0.1:9", "where no Ray dashboard answers", id="a dead address"),
    ],
)
def test_a_cluster_that_does_not_take_it_is_one_line(head, tmp_path, token, address, message):
    """Exit code 1, and nothing is half made."""
    process = launch(head, f"input={tmp_path}", f"output={tmp_path}/out", token=token, address=address)
    said = process.communicate(timeout=120)[1]

    assert (process.returncode, said.count("\n")) == (1, 1), said
    assert message in said
    assert not (tmp_path / "out").exists()
