"""The programs pipelines.train and pipelines.evaluate."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import evaluate, train
from pipelines.config import main
from sam_engine.training.__main__ import main as run_module
from sam_engine.training.config import TrainConfig
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.run import write_config


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_help_imports_no_torch(name: str):
    """``--help`` lists every setting at once, without loading the network."""
    code = (
        f"import sys\nfrom pipelines import {name} as p\nfrom pipelines.config import main\n"
        "assert main(p.COMMAND, p.run, ['--help']) == 0\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert "threads=2" in done.stdout


def test_train_then_evaluate(drawn_tar: Path, tmp_path: Path):
    """A run makes weights that evaluate reads, goes on where it stopped, and ends at once when it is done."""
    settings = [
        f"data.sources=[{drawn_tar}]",
        f"output={tmp_path}/run",
        "data.short_side=96",
        "image_size=32",
        "images_per_step=1",
        "prompts_per_image=2",
        "log_steps=1",
        "threads=1",
    ]
    assert main(train.COMMAND, train.run, [*settings, "total_steps=1"]) == 0
    assert main(train.COMMAND, train.run, [*settings, "total_steps=2"]) == 0
    assert (
        main(train.COMMAND, train.run, [*settings, "total_steps=2", f"export={tmp_path}/half.safetensors"])
        == 0
    )

    assert (tmp_path / "run" / "log.csv").read_text().count("\n") == 3
    full, half = tmp_path / "run" / "model.safetensors", tmp_path / "half.safetensors"
    assert 0.45 < half.stat().st_size / full.stat().st_size < 0.55
    arguments = [f"truth=[{drawn_tar}]", f"model.checkpoint={tmp_path}/half.safetensors", "limit=1"]
    arguments += [f"output={tmp_path}/scores", "parts=[prompts]", "plots=false", "threads=1"]
    assert main(evaluate.COMMAND, evaluate.run, arguments) == 0
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert scores["scores"]["drawn"]["prompts"]["masks"] == 2


def test_pack_only_stops_before_training(drawn_tar: Path, tmp_path: Path):
    """With data.pack_only the packed copy and the settings are made, and nothing else."""
    packed = tmp_path / "a.npz"
    arguments = [
        f"data.sources=[{drawn_tar}]",
        f"data.packed={packed}",
        "data.pack_only=true",
        f"output={tmp_path}/run",
    ]

    assert main(train.COMMAND, train.run, arguments) == 0
    assert packed.exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.sources=[/nowhere/a.tar]"], "/nowhere/a.tar: there is no such file or folder"),
        ([], "data.sources is empty"),
        (["image_size=100"], "image_size must be a multiple of 32, got 100"),
        (["precision=fp8"], "precision must be one of fp32, bf16"),
    ],
)
def test_train_mistakes_end_with_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Exit code 2 and a line that names the setting."""
    assert main(train.COMMAND, train.run, [*arguments, f"output={tmp_path}/run"]) == 2

    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_licences_can_be_asked_for_on_the_command_line(drawn_tar: Path, tmp_path: Path):
    """Terms of several words are quoted; the table is a path like any other."""
    table, packed = tmp_path / "sources, all.csv", tmp_path / "a.npz"
    table.write_text("image_id,licence\n100,CC BY 4.0\n101,CC BY-NC 4.0\n102,CC0\n")
    arguments = [f"data.sources=[{drawn_tar}]", f"data.packed={packed}", "data.pack_only=true"]
    arguments += [f"output={tmp_path}/run"]
    licences = [f"data.sources_csv={table}", "data.licences=[CC0,'CC BY']"]

    assert main(train.COMMAND, train.run, [*arguments, *licences]) == 0
    assert PackedDataset(packed).image_ids.tolist() == [100, 102]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "data.licences needs data.sources_csv"),
        (["data.sources_csv=/nowhere.csv"], "/nowhere.csv: no table"),
    ],
)
def test_licences_need_a_table(
    settings: list[str], message: str, drawn_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Without one, or with a missing one, nothing is packed."""
    arguments = [f"data.sources=[{drawn_tar}]", "data.licences=[CC0]", f"output={tmp_path}", *settings]

    assert main(train.COMMAND, train.run, arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_without_hydra_ray_or_pycocotools(drawn_tar: Path, tmp_path: Path):
    """From its settings and packed data alone, as on a bare accelerator machine; values may be changed."""
    output = tmp_path / "run"
    settings = [f"data.sources=[{drawn_tar}]", f"output={output}", "data.short_side=96", "image_size=32"]
    settings += ["images_per_step=1", "prompts_per_image=2", "log_steps=1", "threads=1", "total_steps=1"]
    assert main(train.COMMAND, train.run, settings) == 0
    absent = [
        "hydra",
        "omegaconf",
        "ray",
        "pycocotools",
        "pyarrow",
        "simplejpeg",
        "cv2",
        "tensorboardX",
        "numba",
    ]
    code = f"import runpy, sys\nsys.modules.update(dict.fromkeys({absent}))\n"
    code += f"sys.argv[1:] = [{str(output / 'config.json')!r}, 'total_steps=2']\n"
    code += "runpy.run_module('sam_engine.training', run_name='__main__')"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert [line.split(",")[0] for line in (output / "log.csv").read_text().split()[1:]] == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "change", "message"),
    [
        (None, "seed=1", "no settings of a training run"),
        ("{}", "seed=1", "no settings of a training run"),
        ("good", "sead=1", "there is no setting 'sead'"),
        ("good", "data.sides=1", "there is no setting 'data.sides'"),
        ("good", "log_steps=0", "log_steps must be at least 1, got 0"),
        ("good", "seed=1", "packed.npz does not exist"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(tmp_path: Path, content, change, message, capsys):
    """A missing or foreign file, a misspelt setting, a wrong value, missing data."""
    path = tmp_path / "config.json"
    if content == "good":
        write_config(TrainConfig(output=str(tmp_path)))
    elif content is not None:
        path.write_text(content)

    assert run_module([str(path), change]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
