"""The proof for a GPU: that it runs to its end on a bare machine, and keeps book whatever happens."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from sam_engine.errors import ConfigError
from tools.bench.gpu_proof import LETTERS, main
from tools.bench.proof import stand_ins
from tools.bench.proof.ledger import FAIL, PASS, SKIP, Finding, Ledger, Step

ROOT = Path(__file__).parents[3]
ABSENT = (
    "PIL", "cv2", "hydra", "matplotlib", "numba", "omegaconf", "pyarrow", "pycocotools", "ray", "safetensors",
    "scipy", "segment_anything", "simplejpeg", "skimage", "torchvision", "tqdm",
)  # fmt: skip
NOTHING_ELSE = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.slow
def test_the_proof_runs_where_there_is_torch_and_numpy_alone(tmp_path: Path) -> None:
    """Every letter passes on a CPU that plays the device, in processes that find no other package."""
    (tmp_path / "sitecustomize.py").write_text(NOTHING_ELSE)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "tools.bench.gpu_proof",
        "--dry-run",
        "--output",
        str(tmp_path / "found"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = (tmp_path / "found" / "results.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    table = (tmp_path / "found" / "table.md").read_text()

    assert [entry for entry in entries if entry["status"] != PASS] == []
    assert done.returncode == 0, done.stderr
    assert list(dict.fromkeys(entry["letter"] for entry in entries)) == list(LETTERS)
    assert "stood in for: PIL, cv2, safetensors, tqdm, numba" in table
    assert "nothing is shown of a GPU" in table


def test_a_machine_without_a_gpu_is_told_so(tmp_path: Path) -> None:
    """Nothing is proven on a CPU unless that is asked for."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")

    with pytest.raises(ConfigError, match="torch finds no CUDA device here; try --dry-run"):
        main(["--output", str(tmp_path)])


def make_ledger(path: Path, seconds: float = 60.0) -> Ledger:
    return Ledger(path, time.monotonic() + seconds, tell=lambda text: None, tidy=lambda: None)


def test_a_step_that_fails_stops_no_other(tmp_path: Path) -> None:
    """Its error and what it found before are kept; what it promised and broke is a failure too."""
    ledger = make_ledger(tmp_path / "results.jsonl")

    def raises(found: Finding) -> None:
        found.facts["seen"] = 1
        raise ValueError("no | kernel")

    ledger.run(Step(letter="A", name="raises", work=raises))
    ledger.run(Step(letter="B", name="breaks", work=lambda found: found.hold("it is fast", False)))
    ledger.run(Step(letter="C", name="holds", work=lambda found: found.hold("it is fast", True)))
    table = ledger.table({"A": "first", "B": "second", "C": "third"})

    assert [ledger.verdict(letter) for letter in "ABC"] == [FAIL, FAIL, PASS]
    assert ledger.entries[0].facts == {"seen": 1}
    assert "| A | raises | FAIL | 0.0 | seen 1; **ValueError: no / kernel** |" in table


def test_results_are_on_disk_before_the_next_step_begins(tmp_path: Path) -> None:
    """Whatever ends the process takes nothing with it."""
    path = tmp_path / "results.jsonl"
    ledger = make_ledger(path)
    seen = []
    for name in ("one", "two", "three"):
        step = Step(letter="A", name=name, work=lambda found: seen.append(path.exists() and path.read_text()))
        ledger.run(step)

    assert [text and text.count("\n") for text in seen] == [False, 1, 2]


def test_what_has_not_begun_by_the_deadline_is_skipped(tmp_path: Path) -> None:
    """And a letter of which something was skipped, or all, has not passed."""
    ledger = make_ledger(tmp_path / "results.jsonl", seconds=-1)
    ledger.run(Step(letter="A", name="late", work=lambda found: pytest.fail("it is too late")))

    assert ledger.entries[0].status == SKIP
    assert [ledger.verdict(letter) for letter in "AB"] == [SKIP, SKIP]


@pytest.fixture
def stood_in() -> Iterator[None]:
    """Let real packages be themselves again afterwards."""
    names = ("cv2", "safetensors", "safetensors.torch")
    before = {name: sys.modules[name] for name in names}
    yield
    sys.modules.update(before)
    sys.modules["safetensors"].torch = sys.modules["safetensors.torch"]


@pytest.mark.usefixtures("stood_in")
def test_weights_are_files_of_safetensors(tmp_path: Path) -> None:
    """What stands in reads what the package wrote, and the package reads what it writes."""
    real, real_open = safetensors.torch, safetensors.safe_open
    tensors = {
        "half": torch.randn(3, 5).half(),
        "none": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
        "one": torch.tensor(7.0),
        "many": torch.arange(12).view(3, 4),
    }
    real.save_file(tensors, tmp_path / "theirs", {"step": "3"})
    stand_ins.STAND_INS["safetensors"]()
    ours = sys.modules["safetensors.torch"]
    ours.save_file(tensors, tmp_path / "ours", {"step": "3"})
    loaded = [ours.load_file(tmp_path / "theirs"), real.load_file(tmp_path / "ours")]
    with real_open(tmp_path / "ours", framework="pt") as file:
        metadata = file.metadata()

    assert metadata == {"step": "3"}
    for found in loaded:
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.usefixtures("stood_in")
def test_regions_are_those_of_opencv() -> None:
    """As many, as large, and of the same pixels, joined at sides and corners."""
    real = cv2.connectedComponentsWithStats
    mask = (np.random.default_rng(0).random((40, 60)) > 0.7).astype(np.uint8)
    stand_ins.STAND_INS["cv2"]()
    count, labels, stats, _ = sys.modules["cv2"].connectedComponentsWithStats(mask, connectivity=8)
    expected_count, expected, expected_stats, _ = real(mask, connectivity=8)

    assert count == expected_count
    assert sorted(stats[1:, 4]) == sorted(expected_stats[1:, cv2.CC_STAT_AREA])
    assert len({*zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True)}) == count
