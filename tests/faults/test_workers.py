"""Short turns of the campaigns against workers, and whether they notice what they are there to notice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.result import Result
from tests.faults.soak import Sample, judge

ROOT = Path(__file__).resolve().parents[2]


def samples(**growth):
    """Return what a process holds over 10,000 images; ``growth`` is by image."""
    steady = {
        "rss": 2e8, "children_rss": 0, "descriptors": 8, "threads": 5, "children": 0, "shared_memory": 0,
    }  # fmt: skip
    return [
        Sample(
            num_images=done,
            **{name: int(value + growth.get(name, 0) * done) for name, value in steady.items()},
        )
        for done in range(0, 10_001, 50)
    ]


def test_steady_process_passes():
    """Half a kB an image is allowed: footers, reports and the allocator."""
    result = Result(campaign="soak")
    judge(samples(rss=500), result)

    assert result.violations == []
    assert result.details["memory slope"] == "500 B/image"


@pytest.mark.parametrize(
    ("growth", "violation"),
    [
        ({"rss": 1100}, "memory grew by 1100 bytes an image"),
        ({"children_rss": 2000}, "children's memory grew by 2000 bytes an image"),
        ({"descriptors": 0.001}, "descriptors grew from 13 to 18"),
        ({"threads": 0.001}, "threads grew from 10 to 15"),
        ({"children": 0.001}, "children grew from 5 to 10"),
        ({"shared_memory": 0.001}, "shared_memory grew from 5 to 10"),
    ],
)
def test_leak_is_noticed(growth, violation):
    """Whatever grows with the images is named, with how much."""
    result = Result(campaign="soak")
    judge(samples(**growth), result)

    assert result.violations == [violation]


def test_start_of_a_process_is_no_leak():
    """What it loads for its first images does not count."""
    first, *rest = samples()
    result = Result(campaign="soak")
    judge([first, *rest[100:]], result)

    assert result.violations == []


def run_campaign(folder, name, n, *arguments):
    """Run the program; return what it wrote. It forks, so it has a process of its own."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "tests.faults.workers", name, "--n", str(n), "--json", report]
    process = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads(report.read_text())["campaigns"]


@pytest.mark.slow
def test_user_and_adversary_break_nothing(tmp_path):
    """A few stories of the state machine; `python -m tests.faults.workers machine` tells more."""
    [campaign] = run_campaign(tmp_path, "machine", 3, "--seed", "7")

    assert campaign["violations"] == []
    assert campaign["by_kind"]["kills"] > 0


@pytest.mark.timeout(900)  # a minute where nothing else runs
@pytest.mark.parametrize(
    ("name", "n"), [("siginline", 10), pytest.param("sigray", 12, marks=[pytest.mark.slow, pytest.mark.ray])]
)
def test_signals_end_a_run_cleanly_at_every_phase(tmp_path, name, n):
    """As `make torture-signals` does 200 times: 130 or 143, one line, the same bytes in the end."""
    [campaign] = run_campaign(tmp_path, name, n)

    assert (campaign["injected"], campaign["violations"]) == (n, [])
    assert {kind.split(": ")[0] for kind in campaign["by_kind"]} >= {"imports", "model", "shards", "finish"}
