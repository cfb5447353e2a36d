"""docs/extending.md is enough to add an input or a model: its code, put where it says, works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTIONS = (ROOT / "docs/extending.md").read_text().split("\n## ")[1:]
BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+): ([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

READS_A_TSV = """
import base64, pickle
from sam_engine.config import DecodeConfig
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import sorted_files
from sam_engine.structures import ManifestEntry

with open("photos.tsv", "wb") as file:
    for name, data in ((b"b/2.png", b"second"), (b"1.jpg", b"first"), (b"notes.txt", b"no image")):
        file.write(name + b"\\t" + base64.b64encode(data) + b"\\n")
source = pickle.loads(pickle.dumps(open_input("photos.tsv")))
files = sorted_files(source)
entry = ManifestEntry(image_id=1, path=files[1].path, size=files[1].size, mtime_ns=files[1].mtime_ns)
assert [file.path for file in files] == [b"1.jpg", b"b/2.png"]
assert source.read(entry, DecodeConfig()) == b"second"
"""

MAKES_MASKS = """
import numpy as np
from safetensors.torch import save_file
from pipelines.auto_annotate import COMMAND
from pipelines.config import load
from sam_engine import SamPredictor, load_model, sam_model_registry

save_file(sam_model_registry["patch"]().state_dict(), "patch.safetensors")
config = load(COMMAND, ["model=patch", "model.checkpoint=patch.safetensors"])
sam = load_model(config.model)
predictor = SamPredictor(sam)
predictor.set_image(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
masks, _, _ = predictor.predict(point_coords=np.array([[40, 30]]), point_labels=np.array([1]))
assert masks.shape == (3, 60, 80)
"""


def blocks(title):
    """Where, how and what: every block of a section."""
    [section] = [section for section in SECTIONS if section.startswith(f"{title}\n")]
    return BLOCK.findall(section)


def put(folder, file, how, code):
    """Follow a block's first line."""
    path = folder / file
    if how == "a new file":
        assert not path.exists()
        path.write_text(code)
        return
    start = r"from sam_engine\." if how == "an import" else rf"{how.removeprefix('in ')}\b.*= [{{(]\n"
    line = re.search(rf"^{start}", path.read_text(), re.MULTILINE)
    assert line, f"{file} has no place for: {how}"
    at = line.start() if how == "an import" else line.end()
    path.write_text(path.read_text()[:at] + code + path.read_text()[at:])


@pytest.mark.parametrize(
    ("title", "check"), [("A new input", READS_A_TSV), ("A new model", MAKES_MASKS)], ids=["input", "model"]
)
def test_what_the_page_says_is_enough(tmp_path, title, check):
    """In a copy of the sources; in under 60 lines with its check, blank ones aside."""
    for room in ("sam_engine", "pipelines", "configs"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("weights"))
    for block in blocks(title):
        put(tmp_path, *block)
    lines = "\n".join([*(code for _, _, code in blocks(title)), check]).splitlines()
    result = subprocess.run(
        [sys.executable, "-c", check],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert len([line for line in lines if line.strip()]) < 60


def test_every_block_is_put_somewhere():
    """No code on the page is left out."""
    page = "\n## ".join(SECTIONS)
    assert len(BLOCK.findall(page)) == page.count("```") // 2
    assert {title for title in ("A new input", "A new model") if blocks(title)} == {
        "A new input",
        "A new model",
    }


def test_the_reading_list_has_six_files():
    """A newcomer's way through the engine leads through files that exist."""
    files = re.findall(r"^\d\. `(\S+)`: ", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)

    assert len(files) == 6
    assert [name for name in files if not (ROOT / name).exists()] == []


PAGES = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_source_file_that_a_page_names_exists(page):
    """From the top of the project, or from sam_engine."""
    text = page.read_text().partition("## What is not built yet")[0]
    names = re.findall(r"`((?:[a-z][a-z0-9_]*/)+[a-z0-9_]+\.(?:py|yaml|md))`", text)

    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}

    assert [n for n in names if not (ROOT / n).exists() and not (ROOT / "sam_engine" / n).exists()] == []
    assert set(re.findall(r"\btest_\w+\.py\b", text)) <= tests


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_page_leads_somewhere(page):
    """The file is there, and the heading."""
    broken = []
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        headings = re.findall(r"^#+ (.*)", linked.read_text(), re.M) if anchor and linked.exists() else []
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        if not linked.exists() or (anchor and anchor not in anchors):
            broken.append(target)

    assert broken == []
