"""The torture chamber in small: every campaign with a few faults. ``make torture`` runs them in full."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CAMPAIGNS = ("calls", "syscalls", "kill", "powerloss", "zombies", "flips")


def run_campaigns(folder, *arguments):
    """Run the program; return what it wrote, by campaign. It forks, so it has a process of its own."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "tests.faults", *arguments, "--json", report, "--work", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert report.exists(), done.stderr
    results = {result["campaign"]: result for result in json.loads(report.read_text())["campaigns"]}
    assert done.returncode == any(result["violations"] for result in results.values())
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run_campaigns(tmp_path_factory.mktemp("faults"), *CAMPAIGNS, "--n", "2", "--images", "6")


@pytest.mark.parametrize("campaign", CAMPAIGNS)
def test_nothing_is_lost_or_doubled(results, campaign):
    """Whatever was injected: what is visible is right, and resuming ends with an undisturbed run's bytes."""
    result = results[campaign]
    if result["skipped"]:
        pytest.skip(result["skipped"])

    assert result["violations"] == []
    assert result["injected"] >= 1


@pytest.mark.slow
def test_planted_bugs_are_found(tmp_path):
    """A suite that misses a naive writer, a missing fsync or a rename proves nothing."""
    result = run_campaigns(tmp_path, "selftest", "--images", "6")["selftest"]

    assert result["violations"] == []
    assert result["outcomes"]["found"] == result["injected"] >= 6
