"""Ray as we start it: nobody without its token gets in, and nobody else on the machine finds the token."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SESSION = """
import json, os, stat, sys
from sam_engine.config import ExecutorConfig
from sam_engine.cluster.ray_session import import_ray, ray_session
with ray_session(ExecutorConfig(num_workers=1)):
    ray = import_ray()
    token = os.environ["RAY_AUTH_TOKEN_PATH"]
    session = ray._private.worker._global_node.get_session_dir_path()
    folder = os.path.dirname(os.path.dirname(session))
    assert folder == os.path.dirname(token), (folder, token)
    mode = lambda path: oct(stat.S_IMODE(os.stat(path).st_mode))
    told = {
        "address": ray.get_runtime_context().gcs_address,
        "dashboard": ray._private.worker._global_node.webui_url or "",
        "token": mode(token),
        "length": len(open(token).read()),
        "folder": mode(folder),
        "usage": os.environ["RAY_USAGE_STATS_ENABLED"],
    }
    print(json.dumps(told), flush=True)
    sys.stdin.read()
"""
STRANGER = """
import sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("inside", ray.cluster_resources())
"""


@pytest.mark.ray
def test_strangers_do_not_get_into_our_ray(tmp_path):
    """A local session has no dashboard; its token and folder are ours alone; another token is turned away."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    clean |= {
        "PYTHONPATH": str(ROOT),
        "RAY_ADDRESS": "127.0.0.1:1",
    }  # where another's cluster is, to be ignored
    guess = tmp_path / "guess"
    guess.write_text("0" * 64)
    guess.chmod(0o600)
    session = subprocess.Popen(
        [sys.executable, "-c", SESSION], env=clean, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        told = json.loads(session.stdout.readline())
        stranger = subprocess.run(
            [sys.executable, "-c", STRANGER, told["address"]],
            env=clean | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(guess)},
            capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
    finally:
        session.stdin.close()
        session.stdout.close()
        session.wait(timeout=60)

    assert (told["token"], told["length"], told["folder"]) == ("0o600", 64, "0o700")
    assert told["dashboard"] == ""
    assert told["usage"] == "0"
    assert stranger.returncode != 0
    assert "inside" not in stranger.stdout
