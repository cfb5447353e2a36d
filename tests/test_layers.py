"""Each framework has one owner, and only what computes imports torch."""

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("sam_engine", "pipelines", "tools") for path in (ROOT / room).rglob("*.py"))
TORCH_ROOMS = ("amg", "compute", "modeling", "ops", "training", "evaluation", "utils")
TORCH_FILES = (
    "predictor.py",
    "automatic_mask_generator.py",
    "build_sam.py",
    "annotation/worker.py",
    "annotation/canary.py",
)
TORCH_TOOLS = (
    "bench/calibration.py",
    "bench/decoder.py",
    "bench/flops.py",
    "bench/meters.py",
    "bench/run.py",
    "reference.py",
)
OWNERS = {
    "hydra": {"pipelines/config.py"},
    "omegaconf": {"pipelines/config.py"},
    "numba": {"sam_engine/compute/compiled.py"},
    "obstore": {"sam_engine/storage/bucket.py"},
    "ray": {
        "sam_engine/cluster/ray_job.py",
        "sam_engine/cluster/ray_metrics.py",
        "sam_engine/cluster/ray_session.py",
        "sam_engine/training/distributed.py",
    },
}


@functools.cache
def imports(path):
    """The top-level packages that a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("framework", sorted(OWNERS))
def test_a_framework_is_imported_by_its_owner_alone(framework):
    """Hydra in pipelines/config.py, Ray where it is started, numba in compute, obstore in storage."""
    users = {path.relative_to(ROOT).as_posix() for path in FILES if framework in imports(path)}

    assert users <= OWNERS[framework]
    assert users


def test_no_files_import_each_other_in_a_circle():
    """Every file can be understood after those that it imports, late and type-checking imports included."""
    grimp = pytest.importorskip("grimp", reason="comes with import-linter")
    graph = grimp.build_graph("sam_engine", "pipelines", "tools", cache_dir=None)
    files = TopologicalSorter({file: graph.find_modules_directly_imported_by(file) for file in graph.modules})

    files.prepare()  # a CycleError names the circle


@pytest.mark.parametrize("package", ["pipelines", "tools"])
def test_programs_import_one_another_relatively(package):
    """A wheel has them as sam_engine.pipelines and sam_engine.tools, where their own names lead nowhere."""
    absolute = [path for path in FILES if imports(path) & {package}]

    assert [path.relative_to(ROOT).as_posix() for path in absolute] == []


def test_the_picture_of_the_rooms_is_true():
    """docs/architecture.md names every room and file at the top, and the layers as they are enforced."""
    page = (ROOT / "docs/architecture.md").read_text()
    rules = re.search(r"^pipelines \| tools\n((?:[^`\n]+\n)+)", page, re.M)[1].splitlines()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = set(re.findall(r"^  (\w+)(?:/|\.py) ", page, re.M))
    rooms = {path.stem for path in (ROOT / "sam_engine").iterdir() if not path.name.startswith("__pyc")}

    assert [re.sub("  .*", "", rule) for rule in rules] == contracts[0]["layers"]
    assert named >= rooms - {"py"}, rooms - named


PLANTED = {
    "a room looks up": ("sam_engine/ops/boxes.py", "sam_engine.amg.search", "rooms of the library"),
    "a new room has no place": ("sam_engine/attic/__init__.py", "sam_engine.errors", "rooms of the library"),
    "the library calls a program": ("sam_engine/errors.py", "tools.verify", "programs on top"),
    "a program calls its neighbour": ("tools/verify.py", "pipelines.config", "programs on top"),
    "a tool takes Hydra": ("tools/verify.py", "hydra", "only pipelines know Hydra"),
}


@pytest.fixture(scope="module")
def copied_sources(tmp_path_factory):
    """The files that import-linter reads."""
    folder = tmp_path_factory.mktemp("copy")
    for path in [*FILES, ROOT / "pyproject.toml"]:
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return folder


@pytest.mark.parametrize(("place", "imported", "contract"), PLANTED.values(), ids=PLANTED)
def test_a_planted_import_breaks_its_contract(copied_sources, place, imported, contract):
    """`make check`, and with it continuous integration, would fail."""
    file = copied_sources / place
    before = file.read_text() if file.exists() else None
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{before or ''}\nimport {imported}\n")
    linter = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    environment = os.environ | {"PYTHONPATH": str(copied_sources), "COLUMNS": "200"}
    result = subprocess.run(
        [sys.executable, "-c", linter], cwd=copied_sources, env=environment, capture_output=True, text=True
    )
    file.write_text(before) if before else shutil.rmtree(file.parent)

    assert result.returncode == 1
    assert re.search(rf"^{contract}.* BROKEN", result.stdout, re.M), result.stdout


def may_import_torch(path):
    top, _, inside = path.relative_to(ROOT).as_posix().partition("/")
    if top == "tools":
        return inside in TORCH_TOOLS or inside.startswith("bench/proof/")
    return top == "sam_engine" and (inside.partition("/")[0] in TORCH_ROOMS or inside in TORCH_FILES)


def test_readers_exporters_and_command_lines_start_without_torch():
    """Importing every module that does not compute loads neither torch nor Ray."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if not may_import_torch(path)
    ]
    names = [name.removesuffix(".__init__") for name in names if name != "sam_engine.annotation.ray_pool"]
    names += ["sam_engine.ops.rle", "sam_engine.training.config"]
    names += ["sam_engine.evaluation.config", "sam_engine.evaluation.truth"]
    code = f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
    code += "print(*sorted({'torch', 'ray'} & set(sys.modules)))"

    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")
