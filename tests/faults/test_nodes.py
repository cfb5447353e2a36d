"""A cluster whose machines are unequal, and come and go while a run is at work."""

import os
import time
from unittest import mock

import pytest

from pipelines.auto_annotate import run
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.verify import verify_dataset
from tests.annotation.test_ray_pool import start, wait_until
from tests.faults.ray_nodes import ray_nodes
from tests.helpers import fakes


@pytest.mark.slow
@pytest.mark.ray
def test_machines_that_come_and_go_make_what_one_process_makes(tmp_path):
    """Three unequal ones, a GPU among them: one is killed, two are pre-empted; a late one does the rest."""
    fakes.write_images(tmp_path / "in", 240)
    calm = fakes.run_settings(input=str(tmp_path / "in"), output=str(tmp_path / "calm"), shard_size=2)
    run(calm, fakes.make_disc_segmenter)
    shards = tmp_path / "out" / "annotations"

    def more_are_done(number):
        there = len(list(shards.glob("*.parquet")))
        wait_until(lambda: len(list(shards.glob("*.parquet"))) >= there + number, driver, 300)

    with mock.patch.dict(os.environ), ray_nodes(tmp_path, {}, [(1, 0), (2, 0), (1, 1)]) as nodes:
        token = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
        driver = start(
            tmp_path / "in", tmp_path / "out", f"executor.address={nodes.address}", "executor.num_workers=1",
            "executor.cpu_workers=3", "preflight=first", "preflight.num_images=1", IMAGE_S="0.4", **token,
        )  # fmt: skip
        more_are_done(6)
        nodes.kill(0)
        more_are_done(3)
        nodes.drain(1)  # the GPU's
        time.sleep(6)  # the driver looks every five seconds
        nodes.kill(1)
        nodes.add(1)
        nodes.drain(0)
        time.sleep(6)
        nodes.kill(0)
        assert len(list(shards.glob("*.parquet"))) < 120, "nothing was left for the late one"
        out, err = driver.communicate(timeout=300)

    assert driver.returncode == 0, err
    assert "workers   4 of 4 are sound" in err
    assert "images    240 of 240" in out
    assert "machines are leaving" in err
    assert fakes.shard_bytes(tmp_path / "out") == fakes.shard_bytes(tmp_path / "calm")
    assert not verify_dataset(open_dataset(tmp_path / "out")).problems


@pytest.mark.slow
@pytest.mark.ray
def test_a_sick_machine_is_refused_before_a_run_and_in_it(tmp_path):
    """Of five places on three machines four are sound; the run is made by those, and ends as it should."""
    fakes.write_images(tmp_path / "in", 24)
    with mock.patch.dict(os.environ), ray_nodes(tmp_path, {}, [(1, 0), (3, 0)]) as nodes:
        nodes.add(1, is_sick=True)
        token = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
        settings = [
            f"executor.address={nodes.address}",
            "executor.num_workers=null",
            "preflight.num_images=1",
        ]
        only = start(tmp_path / "in", tmp_path / "out", *settings, "preflight=only", **token)
        found, _ = only.communicate(timeout=300)
        driver = start(tmp_path / "in", tmp_path / "out", *settings, "preflight=first", **token)
        out, err = driver.communicate(timeout=300)

    assert (only.returncode, driver.returncode) == (1, 0), err
    for text in (found, err):
        assert "workers   4 of 5 are sound, on 1 machines" in text
        assert "refused   " in text
        assert "the model does not work: RuntimeError: CUDA error" in text
    assert "images    24 of 24" in out
    assert not verify_dataset(open_dataset(tmp_path / "out")).problems
