"""Systems without POSIX's fcntl, resource and memfd, as Windows: a dataset made elsewhere is read there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.auto_annotate import run
from tests.helpers import fakes

BARE = """
import os, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("memfd_create", "O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY", "sched_getaffinity"):
    delattr(os, name)
"""


def on_a_bare_system(code, *arguments, folder):
    """Run code in a process in which nothing of POSIX can be imported."""
    return subprocess.run(
        [sys.executable, "-c", BARE + code, *map(str, arguments)],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a dataset `out` of the images in `in`."""
    root = tmp_path_factory.mktemp("elsewhere")
    fakes.write_images(root / "in", 3)
    config = fakes.run_settings(input=str(root / "in"), output=str(root / "out"))
    assert run(config, fakes.make_disc_segmenter) == 0
    return root


READ = """
import json, sys
from sam_engine.dataset.reader import open_dataset
from sam_engine.web.app import Viewer
from sam_engine.web.listing import Query
from tools.command import run
from tools import export, verify, compare_runs
dataset = open_dataset("out")
viewer = Viewer(dataset)
viewer.listing.look()
codes = [
    run(verify.main, ["out"]),
    run(export.main, ["out", "--to", "coco", "--output", "coco.json"]),
    run(export.main, ["out", "--to", "sa1b", "--output", "sa1b"]),
    run(compare_runs.main, ["out", "out"]),
]
pixels = viewer.pictures.full(viewer.record(0))
print(json.dumps([codes, dataset.num_images, len(viewer.images(Query(), 0, 9)["images"]), pixels[:2].hex()]))
"""


def test_a_dataset_is_read_exported_verified_and_viewed(folder):
    """Nothing that only reads asks for what such systems do not have; images are read as bytes."""
    result = on_a_bare_system(READ, folder=folder)

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == [[0, 0, 0, 0], 3, 3, "ffd8"]
    assert len(list((folder / "sa1b").glob("*.jpg"))) == 3


def test_writing_is_refused_in_one_line(folder):
    """Who starts a run there is told what is missing, with exit code 2, and nothing is made."""
    code = "from pipelines.auto_annotate import command_line\nsys.exit(command_line(sys.argv[1:]))"
    result = on_a_bare_system(
        code, "input=in", "output=new", "model.checkpoint=random", "executor=inline", folder=folder
    )

    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: datasets are written on Linux and macOS")
    assert not list((folder / "new").rglob("*.parquet"))
