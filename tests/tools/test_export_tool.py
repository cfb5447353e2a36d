"""python -m tools.export: flags, sentences and exit codes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.dataset_builder import image, rectangle_mask, sample_records, write_dataset
from tools import export
from tools.command import run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path):
    write_dataset(tmp_path / "data", sample_records(), input_root=str(tmp_path / "gone"))
    return tmp_path / "data"


def test_sa1b_without_images_says_so(data, tmp_path, capsys):
    """Annotations are written, and one line tells what is missing and which flag helps."""
    code = run(export.main, [str(data), "--to", "sa1b", "--output", str(tmp_path / "out")])
    printed = capsys.readouterr()

    assert code == 0
    assert printed.err.startswith("annotations only: ")
    assert "--images says where the images are" in printed.err
    assert printed.out.splitlines() == [
        f"{tmp_path / 'out'}: 4 images, 4 masks",
        "1 images failed in the run and were left out",
    ]


def test_coco_is_one_file(data, tmp_path, capsys):
    """The summary as JSON is for programs."""
    code = run(export.main, [str(data), "--to", "coco", "--output", str(tmp_path / "a/c.json"), "--json"])

    assert code == 0
    assert json.loads(capsys.readouterr().out) == {
        "num_images": 4,
        "num_masks": 4,
        "num_failed": 1,
        "num_copies": 0,
        "missing": {},
    }
    assert json.loads((tmp_path / "a/c.json").read_text())["categories"][0]["name"] == "object"


def test_uncopied_images_are_counted_by_reason(tmp_path, capsys):
    """The folder is there, but not the images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"not what it was")
    masks = [rectangle_mask(24, 32, 1, 1, 2, 2)]
    write_dataset(tmp_path / "data", [image(0, b"a.jpg", masks), image(1, b"b.jpg")])
    arguments = [str(tmp_path / "data"), "--to", "sa1b", "--output", str(tmp_path / "out")]
    code = run(export.main, [*arguments, "--images", str(folder)])

    assert code == 0
    assert "whose annotations were written all the same: 1 changed, 1 vanished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--to", "coco", "--output", "x"], "error: nowhere is not a dataset"),
        (
            ["DATA", "--to", "sa1b", "--output", "x", "--images", "nowhere"],
            "error: input 'nowhere' does not exist",
        ),
        (["DATA", "--to", "coco", "--output", "DATA/README.md"], "error: --output .* exists"),
        (["DATA", "--to", "sa1b", "--output", "DATA"], "error: --output .* exists"),
        (["s3://bucket/x", "--to", "coco", "--output", "x"], "error: .*not supported yet"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(data, tmp_path, capsys, monkeypatch, arguments, message):
    """Every message begins with error: and nothing is written."""
    monkeypatch.chdir(tmp_path)
    (data / "README.md").write_text("")
    code = run(export.main, [argument.replace("DATA", str(data)) for argument in arguments])
    printed = capsys.readouterr().err

    assert code == 2
    assert printed.count("\n") == 1
    assert re.match(message, printed)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("flags", [["--tar"], ["--images", "x"]])
def test_flags_of_the_other_form_are_refused(data, tmp_path, capsys, flags):
    """Rather than ignored."""
    with pytest.raises(SystemExit) as caught:
        export.main([str(data), "--to", "coco", "--output", str(tmp_path / "x"), *flags])

    assert caught.value.code == 2
    assert "--tar and --images go with --to sa1b" in capsys.readouterr().err


def test_a_damaged_dataset_is_exit_1(data, tmp_path, capsys):
    """The shard is named, with what to run."""
    (data / "annotations/shard-000000.parquet").write_bytes(b"PAR1")
    code = run(export.main, [str(data), "--to", "coco", "--output", str(tmp_path / "x")])

    assert code == 1
    assert "shard-000000.parquet" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_exit_4(data, tmp_path, capsys):
    """Storage has its own code."""
    (tmp_path / "file").write_text("")
    code = run(export.main, [str(data), "--to", "coco", "--output", str(tmp_path / "file/c.json")])

    assert code == 4
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["export", "verify"])
def test_help_needs_neither_torch_nor_ray(tool):
    """The tool starts at once."""
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['tools.{tool}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('tools.{tool}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "sys.exit(', '.join({'torch', 'ray', 'hydra', 'cv2'} & set(sys.modules)) or None)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert f"usage: python -m tools.{tool}" in result.stdout
