"""Exports lead back to the source, and say whose the images are."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.schema import MANIFEST
from sam_engine.dataset.verify import verify_dataset
from sam_engine.formats.coco import open_coco_source
from sam_engine.formats.export import export_dataset
from sam_engine.formats.ours import open_dataset_source
from sam_engine.formats.source import ReadOptions
from tests.helpers.dataset_builder import image, rectangle_mask, write_dataset

MASK = rectangle_mask(24, 32, 2, 3, 10, 6)
RECORDS = [
    replace(
        image(0, b"x.tar/a.jpg", [MASK]),
        licence="CC BY-SA 4.0",
        attribution="Ann",
        source_url="https://x/a",
        source_key="a",
        frame_time_s=0.5,
    ),
    replace(image(1, b"x.tar/b.jpg", [MASK]), licence="house rules"),
    image(2, b"x.tar/c.jpg", [MASK]),
]
EXTRAS = ("licence", "attribution", "source_url", "source_key", "frame_time_s")


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path / "ours", RECORDS, extras=EXTRAS)
    return open_dataset(tmp_path / "ours")


def test_coco_images_have_licences_and_origins(dataset, tmp_path):
    """In COCO's own fields where it has some; what is unknown is left out."""
    export_dataset(dataset, tmp_path / "coco.json", to="coco")
    document = json.loads((tmp_path / "coco.json").read_text())
    plain = {"width": 32, "height": 24}

    assert document["licenses"] == [
        {"id": 1, "name": "CC BY-SA 4.0", "url": "https://creativecommons.org/licenses/by-sa/4.0/"},
        {"id": 2, "name": "house rules", "url": ""},
    ]
    assert document["images"] == [
        {
            "id": 0,
            **plain,
            "file_name": "x.tar/a.jpg",
            "license": 1,
            "attribution": "Ann",
            "coco_url": "https://x/a",
            "source_key": "a",
            "frame_time_s": 0.5,
        },
        {"id": 1, **plain, "file_name": "x.tar/b.jpg", "license": 2},
        {"id": 2, **plain, "file_name": "x.tar/c.jpg"},
    ]


def test_licences_survive_the_way_through_coco(dataset, tmp_path):
    """Training that reads the export filters by what the table said."""
    export_dataset(dataset, tmp_path / "coco.json", to="coco")
    source = open_coco_source(tmp_path / "coco.json", ReadOptions(images=str(tmp_path)))

    assert [source.licence(index) for index in range(3)] == ["CC BY-SA 4.0", "house rules", None]


def test_licences_of_a_dataset_are_known_to_training(dataset, tmp_path):
    """No table is needed where the dataset knows them."""
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).touch()
    source = open_dataset_source(tmp_path / "ours", ReadOptions(images=str(tmp_path / "photos")))

    assert [source.licence(index) for index in range(3)] == ["CC BY-SA 4.0", "house rules", None]


def test_a_row_that_contradicts_the_manifest_is_reported(dataset):
    """The manifest of these rows knows nothing of their key."""
    manifest = Manifest.from_bytes(dataset.store.read(MANIFEST))
    keys = pa.chunked_array([["a", "b", None]])
    dataset.store.replace(MANIFEST, manifest.with_origins({"source_key": keys}).to_bytes())
    problems = verify_dataset(dataset).problems

    assert any("image 1: source_key is None; the manifest has 'b'" in problem for problem in problems)
    assert not any("image 0: source_key" in problem for problem in problems)


def test_sa1b_images_have_original_names_and_origins(dataset, tmp_path):
    """Beside SA-1B's own four fields."""
    export_dataset(dataset, tmp_path / "sa1b", to="sa1b")
    images = [json.loads((tmp_path / "sa1b" / f"sa_{n}.json").read_text())["image"] for n in range(3)]

    assert images[0] == {
        "image_id": 0,
        "width": 32,
        "height": 24,
        "file_name": "sa_0.jpg",
        "original_name": "x.tar/a.jpg",
        "licence": "CC BY-SA 4.0",
        "attribution": "Ann",
        "source_url": "https://x/a",
        "source_key": "a",
        "frame_time_s": 0.5,
    }
    assert set(images[2]) == {"image_id", "width", "height", "file_name", "original_name"}
