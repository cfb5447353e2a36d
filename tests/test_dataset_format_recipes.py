"""The recipes of docs/dataset_format.md, run as they are printed there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.dataset_builder import sample_records, write_dataset
from tests.helpers.drawn_data import write_our_dataset

DOCUMENT = Path(__file__).parents[1] / "docs/dataset_format.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)

# What each recipe must have found in the sample dataset: five images, of which three have four masks.
CHECKS = {
    "pyarrow.parquet": "assert table.num_rows == 5 and len(row['annotations']) == 2",
    "duckdb": "assert len(masks.fetchall()) == 4 and large['area'].tolist() == [60]",
    "pandas": "assert len(images) == 5 and masks['area'].tolist() == [60, 8, 8, 15]; "
    "assert masks['image_id'].tolist() == [0, 0, 3, 4]",
    "datasets": "assert len(dataset) == 5 and dataset[0]['annotations'][0]['area'] == 60",
    "pycocotools": "assert mask.shape == (24, 32) and mask.sum() == 60",
    "sam_engine.dataset.reader": "assert record.image_id == 4",
    "sam_engine.formats.torch_dataset": "assert shapes == [((3, 96, 96), (2, 96, 96))] * 2",
    "sam_engine.dataset.corrections": "assert [(m.mask_id, m.accepted) for m in masks[0]] == [(0, True)]",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes")
    write_dataset(path / "out", sample_records())
    write_our_dataset(path / "with_images", 3).rename(path / "with_images" / "out")
    return path


def recipe(library):
    """Return the one code block whose last import is of ``library``."""
    matches = [
        block
        for block in BLOCKS
        if re.findall(r"^(?:import|from) (\S+)", block, re.MULTILINE)[-1].startswith(library)
    ]
    assert len(matches) == 1, f"{len(matches)} recipes use {library}"
    return matches[0]


def test_every_recipe_is_checked():
    """No code block of the document is left out here."""
    assert sorted(recipe(library) for library in CHECKS) == sorted(BLOCKS)


@pytest.mark.parametrize("library", CHECKS)
def test_the_recipe_reads_the_dataset(folder, library):
    """Pasted into a fresh interpreter beside a dataset, offline, it finds what is there."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    result = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", recipe(library) + CHECKS[library]],
        cwd=folder / "with_images" if "torch" in library else folder,
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr


def test_the_recipe_of_the_readme_has_a_row_for_each_mask(folder):
    """Images without masks are no masks."""
    text = (DOCUMENT.parents[1] / "README.md").read_text()
    [block] = [
        block for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "pandas" in block
    ]
    result = subprocess.run(
        [sys.executable, "-c", block + "assert len(images) == 5 and len(masks) == 4, masks"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert result.returncode == 0, result.stderr
