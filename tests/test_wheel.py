"""The wheel: one package, programs and YAML in it; its command does what the checkout's does."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
SOURCES = (
    "sam_engine",
    "pipelines",
    "tools",
    "configs",
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
)


def run(*command, cwd, **environment):
    """Return stdout of a command that succeeds; it knows of no checkout."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, for setuptools takes files of an older build along."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        "dist",
        ".",
        cwd=folder,
    )
    return next((folder / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel):
    """Every file in the wheel."""
    return zipfile.ZipFile(wheel).namelist()


def test_the_top_level_is_one_package(names):
    """Nothing called tools or configs in other people's site-packages."""
    tops = {name.partition("/")[0] for name in names}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"sam_engine"}


def test_it_holds_every_source_file_and_configuration(names):
    """Rooms, programs, YAML, pages, weights and the marker of types."""
    expected = {
        ("" if folder == "sam_engine" else "sam_engine/") + path.relative_to(ROOT).as_posix()
        for folder in ("sam_engine", "pipelines", "tools", "configs")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }

    assert {name for name in names if ".dist-info/" not in name} == expected


@pytest.mark.slow
def test_the_installed_command_writes_the_same_bytes(wheel, tmp_path):
    """In an environment of its own, beside no checkout, in another folder."""
    venv, photos, elsewhere = tmp_path / "venv", tmp_path / "photos", tmp_path / "elsewhere"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (venv / "lib" / version / "site-packages" / "others.pth").write_text(
        "\n".join(path for path in sys.path if path.endswith("site-packages"))
    )
    pip = (sys.executable, "-m", "pip", "--python", venv / "bin" / "python")
    run(*pip, "install", "--no-deps", "--ignore-installed", wheel, cwd=tmp_path)
    photos.mkdir(), elsewhere.mkdir()
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((240, 180)).save(photos / f"{index}.png")
    settings = [f"input={photos}", "executor=inline", "amg.points_per_side=4", "amg.pred_iou_thresh=0.1"]
    settings += ["amg.stability_score_thresh=0.1"]
    command = venv / "bin" / "sam-engine"

    assert run(command, "--version", cwd=elsewhere).startswith("sam-engine ")
    where = run(venv / "bin" / "python", "-c", "import sam_engine; print(sam_engine.__file__)", cwd=elsewhere)
    assert Path(where).is_relative_to(venv)
    run(command, "annotate", *settings, "output=installed", cwd=elsewhere)
    run(command, "verify", "installed", cwd=elsewhere)
    run(sys.executable, "-m", "pipelines.auto_annotate", *settings, f"output={elsewhere}/checkout", cwd=ROOT)
    shard = "annotations/shard-000000.parquet"
    assert (elsewhere / "installed" / shard).read_bytes() == (elsewhere / "checkout" / shard).read_bytes()
