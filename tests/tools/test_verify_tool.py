"""python -m tools.verify: one problem a line, exit codes 0, 1 and 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.dataset_builder import sample_records, write_dataset
from tools import verify
from tools.command import run


@pytest.fixture
def data(tmp_path):
    write_dataset(tmp_path, sample_records())
    return tmp_path


def test_a_sound_dataset_is_exit_0(data, capsys):
    """One line says what was checked."""
    code = run(verify.main, [str(data)])

    assert code == 0
    assert capsys.readouterr().out == f"{data}: 3 shards, 5 images, 4 masks: sound\n"


def test_problems_are_listed_and_exit_1(data, capsys):
    """One a line, then the count."""
    (data / "_SUCCESS.json").unlink()
    (data / "annotations/shard-000001.parquet").unlink()
    code = run(verify.main, [str(data)])

    assert code == 1
    assert capsys.readouterr().out.splitlines() == [
        "images 2 to 3 have no row",
        "_SUCCESS.json: is missing: the run has not finished",
        f"{data}: 2 shards, 3 images, 3 masks: 2 problems",
    ]


def test_json_says_the_same(data, capsys):
    """For programs."""
    (data / "_SUCCESS.json").unlink()
    code = run(verify.main, [str(data), "--json"])

    assert code == 1
    assert json.loads(capsys.readouterr().out) == {
        "problems": ["_SUCCESS.json: is missing: the run has not finished"],
        "num_shards": 3,
        "num_images": 5,
        "num_masks": 4,
        "statuses": {"corrupt": 1, "ok": 3, "ok_empty": 1},
        "damaged": [],
    }


def test_another_folder_is_exit_2(tmp_path, capsys):
    """A folder that is no dataset is a mistake, not a damaged dataset."""
    code = run(verify.main, [str(tmp_path)])

    assert code == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is not a dataset: it has no _meta/run.json\n"


def test_it_runs_as_a_module(data):
    """As it is written in every message that mentions it."""
    command = [sys.executable, "-m", "tools.verify", str(data)]
    result = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("sound\n")


def test_a_reader_that_went_away_is_no_error(data):
    """As in ``python -m tools.verify out | head``: no traceback, and the verdict stays."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "tools.verify", str(data)]
    with os.fdopen(write_end, "wb") as gone:
        result = subprocess.run(
            command,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            stdout=gone,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert (result.returncode, result.stderr) == (0, b"")
