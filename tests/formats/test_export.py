"""What all formats have in common: labels, lineage, terms, and that an export appears when it is whole."""

import csv
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import yaml

from sam_engine.dataset.correction_log import CorrectionLog, read_corrections
from sam_engine.dataset.corrections import Operation
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError, ImageStatus, ShardError
from sam_engine.formats.coco import read_coco
from sam_engine.formats.cvat import read_cvat
from sam_engine.formats.export import EXPORTS, export_dataset
from sam_engine.formats.label_studio import read_label_studio
from sam_engine.formats.labelme import read_labelme
from sam_engine.formats.returned import log_differences
from tests.helpers.dataset_builder import annotation, image, rectangle_mask, write_dataset

CAT, CUP = (
    replace(annotation(rectangle_mask(24, 32, 2, 3, 10, 6)), label="cat", parent_id=9),
    annotation(rectangle_mask(24, 32, 20, 3, 10, 6)),
)
PARENT = "a" * 64
RECORD = replace(
    image(0, b"a.jpg"),
    status=ImageStatus.OK,
    annotations=(CAT, CUP),
    licence="CC BY 4.0",
    attribution="Ann, of Ulm",
    parent_dataset=PARENT,
    parent_image_id=5,
)
EXTRAS = (
    *("licence", "attribution", "parent_dataset", "parent_image_id"),
    *("annotations.label", "annotations.parent_id"),
)
ORIGIN = {
    "licence": "CC BY 4.0",
    "attribution": "Ann, of Ulm",
    "parent_dataset": PARENT,
    "parent_image_id": 5,
}


def call(root, mask_id, label):
    """Let somebody call a mask of the first image something."""
    log = CorrectionLog(root, "ann")
    log.write([log.line(Operation.LABEL, 0, mask_id, label=label)])


@pytest.fixture
def root(tmp_path):
    """Three images: a cat and what people call a cup; a mask, of unknown terms; no masks."""
    records = [RECORD, image(1, b"b.jpg", [rectangle_mask(24, 32, 1, 1, 3, 3)]), image(2, b"c.jpg")]
    write_dataset(tmp_path / "data", records, extras=EXTRAS)
    call(tmp_path / "data", 1, "cup")
    return tmp_path / "data"


def exported(root, to, **options):
    """Write what is there and return where."""
    output = root.parent / (f"{to}.json" if EXPORTS[to].is_file else to)
    export_dataset(open_dataset(root), output, to=to, corrections=read_corrections(root), **options)
    return output


def test_coco_has_categories_for_labels(root):
    """Unnamed masks first; annotations say their category and where they are from."""
    document = json.loads(exported(root, "coco").read_text())
    names = {each["id"]: each["name"] for each in document["categories"]}
    [first, second, _] = document["annotations"]

    assert names == {1: "object", 2: "cat", 3: "cup"}
    assert (names[first["category_id"]], names[second["category_id"]]) == ("cat", "cup")
    assert first["parent_id"] == 9
    assert not {"label", "bounding_box", "mask", "confidence", "index", "tags"} & first.keys()
    assert "parent_id" not in second
    assert document["images"][0].items() >= {"parent_dataset": PARENT, "parent_image_id": 5}.items()


def test_yolo_has_classes_for_labels(root):
    """Numbered from 0 in data.yaml."""
    output = exported(root, "yolo")
    lines = (output / "labels/000000000000.txt").read_text().splitlines()

    assert yaml.safe_load((output / "data.yaml").read_text())["names"] == {0: "object", 1: "cat", 2: "cup"}
    assert [line.split()[0] for line in lines] == ["1", "2"]


def test_annotators_tools_have_labels(root):
    """Of the masks, and in the configuration of the project."""
    labelme = json.loads((exported(root, "labelme") / "000000000000.json").read_text())
    studio = exported(root, "label-studio")
    [task, *_] = json.loads((studio / "tasks.json").read_text())
    cvat = ET.parse(exported(root, "cvat") / "annotations.xml")
    in_config = [each.get("value") for each in ET.parse(studio / "label_config.xml").iter("Label")]

    assert [shape["label"] for shape in labelme["shapes"]] == ["cat", "cup"]
    assert [each["value"]["brushlabels"] for each in task["annotations"][0]["result"]] == [["cat"], ["cup"]]
    assert [mask.get("label") for mask in cvat.iter("mask")] == ["cat", "cup", "object"]
    assert in_config == [each.text for each in cvat.iter("name")][::2] == ["object", "cat", "cup"]


def test_rows_and_samples_have_labels(root):
    """Parquet has the column; SA-1B's JSON a key where there is one."""
    [table] = [pq.read_table(path) for path in sorted(exported(root, "huggingface").glob("data/*-00000-*"))]
    sample = json.loads((exported(root, "sa1b") / "sa_0.json").read_text())

    assert [mask["label"] for mask in table["annotations"][0].as_py()] == ["cat", "cup"]
    assert [mask.get("label") for mask in sample["annotations"]] == ["cat", "cup"]
    assert [mask.get("parent_id") for mask in sample["annotations"]] == [9, None]


def test_labels_of_corrections_alone_are_written(tmp_path):
    """A dataset that has no such column gets it in Parquet."""
    write_dataset(tmp_path / "data", [image(0, b"a.jpg", [rectangle_mask(24, 32, 1, 1, 3, 3)])])
    call(tmp_path / "data", 0, "cup")
    [path] = exported(tmp_path / "data", "huggingface").glob("data/*")

    assert pq.read_table(path)["annotations"][0].as_py()[0]["label"] == "cup"
    assert json.loads(exported(tmp_path / "data", "coco").read_text())["categories"][0]["name"] == "cup"


def test_terms_come_along_everywhere(root):
    """In the format's own files, or in origins.csv beside them; what is unknown is left out, and counted."""
    summary = export_dataset(open_dataset(root), root.parent / "x", to="yolo")
    folders = (root.parent / "x", exported(root, "cvat"))
    tables = [list(csv.DictReader((folder / "origins.csv").open())) for folder in folders]
    labelme = [json.loads(path.read_text())["origin"] for path in sorted(exported(root, "labelme").iterdir())]
    tasks = json.loads((exported(root, "label-studio") / "tasks.json").read_text())

    assert summary.licences == {"unknown": 2, "CC BY 4.0": 1}
    for first, second, _ in tables:
        assert first.items() >= {name: str(value) for name, value in ORIGIN.items()}.items()
        assert (second["file_name"], second["original_name"], second["licence"]) == (
            "000000000001.jpg", "b.jpg", "",
        )  # fmt: skip
    assert labelme[0] == {"original_name": "a.jpg", **ORIGIN}
    assert labelme[1] == {"original_name": "b.jpg"}
    assert tasks[0]["data"].items() >= ORIGIN.items()
    assert "licence" not in tasks[1]["data"]


BACK = {
    "coco": lambda path: read_coco(path, highest_id=10**6),
    "labelme": read_labelme,
    "label-studio": read_label_studio,
    "cvat": read_cvat,
}


@pytest.mark.parametrize("form", BACK)
def test_another_name_comes_back_as_a_label(root, form):
    """A cat that is called a dog there; one that is no longer called anything; the rest as it was."""
    output = exported(root, form)
    for path in [output] if output.is_file() else [path for path in output.rglob("*") if path.is_file()]:
        path.write_text(path.read_text().replace('"cat"', '"dog"').replace('"cup"', '"object"'))
    summary = log_differences(open_dataset(root), root, BACK[form](output), by="bob")
    said = [(line.operation, line.mask_id, line.label) for line in read_corrections(root)[0][1:]]

    assert (summary.num_kept, summary.num_renamed) == (3, 2)
    assert said == [("label", 0, "dog"), ("label", 1, None)]


def test_a_folder_is_there_whole_or_not_at_all(root):
    """What is damaged leaves nothing; an empty folder is taken; one that is in the works is not touched."""
    shard = root / "annotations/shard-000001.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    with pytest.raises(ShardError):
        exported(root, "yolo")
    assert sorted(path.name for path in root.parent.iterdir()) == ["data"]

    shard.write_bytes(whole)
    (root.parent / "yolo").mkdir()
    (root.parent / "yolo.part").mkdir()
    with pytest.raises(ConfigError, match=r"yolo.part exists: something writes it, or was killed"):
        exported(root, "yolo")
    (root.parent / "yolo.part").rmdir()

    assert (exported(root, "yolo") / "data.yaml").is_file()


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("voc", {}, "there is no format 'voc'; choose from sa1b, coco"),
        ("yolo", {"zip": True}, "zip goes with no format, and not with yolo"),
    ],
)
def test_what_there_is_not_is_a_line(root, to, options, message):
    """From scripts too."""
    with pytest.raises(ConfigError, match=message):
        export_dataset(open_dataset(root), root.parent / "x", to=to, **options)


def test_annotations_have_an_id_and_a_mask(root):
    """Of rows that were read."""
    [first, *_] = open_dataset(root).records()

    assert [mask.id for mask in first.annotations] == [0, 1]
    assert (first.annotations[0].mask() == rectangle_mask(24, 32, 2, 3, 10, 6)).all()
