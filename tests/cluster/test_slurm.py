"""A real Slurm of two nodes: an array of drivers, stopped before the limit, queued again, a node lost."""

import functools
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from pipelines.auto_annotate import run
from pipelines.launch import command_line
from sam_engine.cluster import slurm
from sam_engine.cluster.launch_config import Launch, LaunchConfig
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.schema import SUCCESS
from sam_engine.dataset.verify import verify_dataset
from tests.helpers import fakes
from tests.helpers.slurm_nodes import missing, slurm_nodes
from tests.helpers.stand_in import SETTINGS, executable, stand_in

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def nodes():
    """Two nodes of a core each."""
    with slurm_nodes() as nodes, pytest.MonkeyPatch.context() as patch:
        for name, value in nodes.environment.items():
            patch.setenv(name, value)
        yield nodes


def wait_until(condition, timeout_s=240):
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.2)
    return value


def submit(driver, folder, *arguments, **settings):
    """Submit a driver as the launcher does; return the job's id. A requeued script need not wait long."""
    config = LaunchConfig(
        name="slurm", python=str(driver), cpus=1, memory_gb=1, directory=str(folder), **settings
    )
    launch = Launch(id="annotate-test", arguments=arguments, directory=str(folder), config=config)
    return slurm.submit(slurm.render(launch).replace("sleep 30", "sleep 1"))


WAITING = """#!/bin/bash
[ -n "$SLURM_RESTART_COUNT" ] && echo "again on $SLURMD_NODENAME" >> {log}-$4 && exit 0
trap 'echo stopped >> {log}-$4; kill $!; exit 143' TERM
echo began >> {log}-$4
sleep 300 &
wait
"""


@pytest.mark.parametrize("by", ["scancel", pytest.param("limit", marks=pytest.mark.slow)])
def test_drivers_of_an_array_are_asked_to_stop_and_queued_again(nodes, tmp_path, monkeypatch, by):
    """One on each node; the signal comes from us, or from Slurm before a limit of one minute."""
    monkeypatch.chdir(tmp_path)  # where Slurm writes logs
    driver = executable(tmp_path / "driver", WAITING.format(log=tmp_path / "log"))
    limit, before = (30, 60) if by == "scancel" else (1, 55)
    job = submit(driver, tmp_path, parts=2, time_limit_min=limit, stop_before_s=before)
    logs = [tmp_path / f"log-partition.index={index}" for index in range(2)]
    if by == "scancel":
        wait_until(lambda: all(map(Path.exists, logs)))
        nodes.call("scancel", "--batch", "--signal=USR1", job)
    wait_until(lambda: not nodes.states())

    words = [log.read_text().split() for log in logs]
    assert [each[:4] for each in words] == [["began", "stopped", "again", "on"]] * 2
    assert {nodes.task(f"{job}_{index}")["JobState"] for index in range(2)} == {"COMPLETED"}


@pytest.mark.slow
def test_an_array_that_loses_a_node_makes_what_one_driver_makes(nodes, tmp_path, monkeypatch, capsys):
    """Four parts on two nodes, by the launcher; a node is set down, another task gets the limit's signal."""
    photos = fakes.write_images(tmp_path / "in", 48)
    settings = {"input": str(photos), "shard_size": 2, "amg__min_mask_region_area": 0}
    calm = fakes.run_settings(output=str(tmp_path / "calm"), **settings)
    assert run(calm, functools.partial(fakes.make_troubled_segmenter, 0.0)) == 0
    monkeypatch.chdir(tmp_path)
    driver = stand_in(tmp_path / "driver", 0.2)
    shards = tmp_path / "out/annotations"
    code = command_line([
        "launch=slurm", "launch.parts=4", "launch.cpus=1", "launch.memory_gb=1", "launch.time_limit_min=30",
        f"launch.python={driver}", f"input={photos}", f"output={tmp_path}/out", "executor=inline", *SETTINGS,
    ])  # fmt: skip
    job = re.search(r"is submitted: (\d+)", capsys.readouterr().err)[1]
    assert code == 0
    wait_until(lambda: len(list(shards.glob("*.parquet"))) >= 2)
    nodes.call("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    [running] = [task for task, state in nodes.states().items() if state == "RUNNING"]
    nodes.call("scontrol", "update", "nodename=n2", "state=resume")
    nodes.call("scancel", "--batch", "--signal=USR1", running)  # what Slurm does before the limit
    wait_until(lambda: not nodes.states(), 600)

    logs = "".join(path.read_text() for path in tmp_path.glob("annotate-*.log"))
    tasks = [nodes.task(f"{job}_{index}") for index in range(4)]
    assert {task["JobState"] for task in tasks} == {"COMPLETED"}, logs
    assert sum(int(task["Restarts"]) for task in tasks) >= 2
    assert "stopped by SIGTERM" in logs
    assert (tmp_path / "out" / SUCCESS).exists()
    assert fakes.shard_bytes(tmp_path / "out") == fakes.shard_bytes(tmp_path / "calm")
    assert not verify_dataset(open_dataset(tmp_path / "out")).problems


def test_one_ray_over_several_nodes_is_started_by_rays_own_program(tmp_path):
    """What the script calls on its nodes; without Ray, whose ``ray stop`` would end that of others here."""
    executable(tmp_path / "srun", f'#!/bin/bash\necho "$RAY_AUTH_TOKEN" "$@" > {tmp_path}/srun.log\n')
    executable(tmp_path / "scontrol", "#!/bin/bash\necho node-a\necho node-b\n")
    config = LaunchConfig(name="slurm", nodes=2, cpus=8, gpus=1, python="/opt/engine/bin/python")
    launch = Launch(id="a", arguments=["executor.address=auto"], directory="/", config=config)
    script = executable(tmp_path / "script", slurm.render(launch))
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    assert subprocess.run([script], env=environment).returncode == 0
    token, *words = (tmp_path / "srun.log").read_text().split()
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert " ".join(words) == (
        "--ntasks=2 ray symmetric-run --address node-a:20077 --min-nodes 2 --num-cpus=8 --num-gpus=1 -- "
        "/opt/engine/bin/python -m sam_engine annotate executor.address=auto"
    )
