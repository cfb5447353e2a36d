"""The campaign on corrections in small, and that it finds the bugs it is there for."""

import json
import subprocess
import sys

import pytest

from tests.faults.test_faults import ROOT

PLANTED = """
import sys
from pathlib import Path
from sam_engine.storage import local
from tests.faults.corrections import run_corrections
from tests.faults.result import Order

def naive():
    def replace(store, name, data):
        (store.root / name).parent.mkdir(exist_ok=True)
        with open(store.root / name, "wb") as file:
            for start in range(0, len(data), 64):
                file.write(data[start : start + 64])
                file.flush()
    local.LocalStore.replace = replace

def unsynced():
    local._fsync_directory = lambda path: None

result = run_corrections(Path(sys.argv[1]), Order(limit=4, plant=globals()[sys.argv[2]]))
print(len(result.violations))
"""


def test_no_act_that_was_answered_is_lost(tmp_path):
    """A few faults at calls, kills, and every state after a loss of power."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.faults", "corrections", "--n", "4", "--json", report]
    done = subprocess.run(
        [*command, "--work", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    [result] = json.loads(report.read_text())["campaigns"]

    assert done.returncode == 0, done.stdout
    assert result["violations"] == []
    assert result["injected"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("plant", ["naive", "unsynced"])
def test_planted_bugs_are_found(tmp_path, plant):
    """A file that is written in place, and a folder that is never synced."""
    command = [sys.executable, "-c", PLANTED, tmp_path, plant]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert int(done.stdout) > 0
