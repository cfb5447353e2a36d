"""Hugging Face's layout: images and masks as `datasets` reads them, and the card."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from sam_engine.dataset.correction_log import CorrectionLog, read_corrections
from sam_engine.dataset.originals import open_originals
from sam_engine.dataset.reader import open_dataset
from sam_engine.formats.export import export_dataset
from tests.helpers.dataset_builder import sample_records, write_dataset
from tests.helpers.drawn_data import write_our_dataset

READ = """
import json, datasets
rows = datasets.load_dataset("hf", split="train")
found = [[row["image"].size, row["image_id"], [m["id"] for m in row["annotations"]]] for row in rows]
print(json.dumps(found))
"""


def test_datasets_reads_images_and_masks(tmp_path):
    """By the card, offline: the images decoded, and every mask under its id."""
    dataset = open_dataset(write_our_dataset(tmp_path / "data", 3))
    export_dataset(dataset, tmp_path / "hf", to="huggingface", originals=open_originals(dataset.run_info))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", READ],
        cwd=tmp_path, env=os.environ | offline, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [
        [[record.width, record.height], record.image_id, [record.image_id * 65536 + i for i in range(number)]]
        for record, number in zip(dataset.records(), (2, 2, 0), strict=True)
    ]


@pytest.fixture
def root(tmp_path):
    """A dataset of five rows, one of them failed, without its images."""
    write_dataset(tmp_path / "data", sample_records())
    return tmp_path / "data"


def test_rows_are_those_of_the_dataset(root, tmp_path):
    """Of images that were annotated, without a copy where there is none."""
    export_dataset(open_dataset(root), tmp_path / "hf", to="huggingface")
    names = sorted(path.name for path in (tmp_path / "hf/data").iterdir())
    found = pq.read_table(tmp_path / "hf/data").to_pylist()
    rows = [row for row in pq.read_table(root / "annotations").to_pylist() if row["status"].startswith("ok")]
    number = len(list((root / "annotations").iterdir()))

    assert names == [f"train-{index:05d}-of-{number:05d}.parquet" for index in range(number)]
    assert [row.pop("image") for row in found] == [None] * 4
    assert found == [{name: row[name] for name in found[0]} for row in rows]


def test_masks_are_as_people_left_them(root, tmp_path):
    """A deleted mask is gone, and the other keeps its id."""
    log = CorrectionLog(root, "ann")
    log.delete(0, 0)
    export_dataset(open_dataset(root), tmp_path / "hf", to="huggingface", corrections=read_corrections(root))
    row = pq.read_table(tmp_path / "hf/data").to_pylist()[0]

    assert (row["num_masks"], [mask["id"] for mask in row["annotations"]]) == (1, [1])


def test_the_card_says_what_is_there_and_whether_it_was_blurred(tmp_path):
    """Its data files, its numbers, and that nothing is hidden, unless something hides it."""
    dataset = open_dataset(write_our_dataset(tmp_path / "data", 2))
    originals = open_originals(dataset.run_info)
    export_dataset(dataset, tmp_path / "plain", to="huggingface", originals=originals)
    hiding = replace(originals, hide=lambda _, pixels: pixels)
    export_dataset(dataset, tmp_path / "hidden", to="huggingface", originals=hiding)
    plain, hidden = ((tmp_path / name / "README.md").read_text() for name in ("plain", "hidden"))

    assert "data_files: data/train-*.parquet" in plain
    assert "2 images, 2 of them inside, and 2 masks" in plain
    assert "number plates were blurred" in plain
    assert "was blurred in the images" in hidden
    assert "number plates" not in hidden
