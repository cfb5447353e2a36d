"""COCO instances: what pycocotools opens, with its boxes, and ids that its evaluation can tell apart."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.schema import annotation_id, records_to_table
from sam_engine.dataset.shards import shard_name
from sam_engine.errors import ConfigError, ShardError
from sam_engine.formats.coco_export import coco_annotation
from sam_engine.formats.export import export_dataset
from tests.helpers.dataset_builder import (
    annotation,
    image,
    rectangle_mask,
    sample_records,
    sealed,
    write_dataset,
)


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path / "data", sample_records())
    return open_dataset(tmp_path / "data")


@pytest.fixture
def exported(dataset, tmp_path):
    summary = export_dataset(dataset, tmp_path / "new" / "instances.json", to="coco")
    return summary, tmp_path / "new" / "instances.json"


def test_pycocotools_opens_it(exported):
    """Images, one category, and masks that decode to what was annotated."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(exported[1]))
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[0]))

    assert coco.loadCats(coco.getCatIds()) == [{"id": 1, "name": "object", "supercategory": "object"}]
    assert np.array_equal(coco.annToMask(annotations[0]), rectangle_mask(24, 32, 2, 3, 10, 6))
    assert coco.getImgIds() == [0, 2, 3, 4]


def test_the_summary_counts_what_is_there(exported):
    """Images without masks are kept, failures are left out."""
    summary, path = exported
    document = json.loads(path.read_text())

    assert (summary.num_images, summary.num_masks, summary.num_failed) == (4, 4, 1)
    assert (len(document["images"]), len(document["annotations"])) == (4, 4)
    assert document["images"][0] == {"id": 0, "width": 32, "height": 24, "file_name": "a.jpg"}


def test_an_annotation_is_complete():
    """COCO's keys, and ours beside them."""
    mask = replace(annotation(rectangle_mask(24, 32, 2, 3, 10, 6)), id=7 * 65536)

    assert coco_annotation(7, mask) == {
        "id": 7 * 65536 + 1,
        "image_id": 7,
        "category_id": 1,
        "segmentation": {"size": [24, 32], "counts": "c16b000000000000000000m>"},
        "area": 60,
        "bbox": [2.0, 3.0, 10.0, 6.0],
        "iscrowd": 0,
        "predicted_iou": 0.95,
        "stability_score": 0.96875,
        "crop_box": [0.0, 0.0, 32.0, 24.0],
        "point_coords": [[2.5, 3.5]],
    }


def test_boxes_are_those_of_to_bbox():
    """For masks of any shape, also touching every edge, and for none."""
    rng = np.random.default_rng(0)
    masks = [rng.random((9, 13)) < density for density in (0, 0.01, 0.05, 0.3, 1) for _ in range(8)]
    masks += [rectangle_mask(9, 13, 0, 0, 1, 9), rectangle_mask(9, 13, 12, 8, 1, 1)]
    ours = [coco_annotation(0, replace(annotation(mask), id=0))["bbox"] for mask in masks]
    oracle = [
        coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))).tolist() for mask in masks
    ]

    assert ours == oracle


def test_ids_are_unique_and_exact_in_javascript(exported):
    """No id is 0, none repeats, and the largest a dataset can have by its format is below 2^53."""
    ids = [item["id"] for item in json.loads(exported[1].read_text())["annotations"]]

    assert len(set(ids)) == len(ids)
    assert min(ids) > 0
    assert annotation_id(2**36, 0) + 1 < 2**53


def test_perfect_detections_score_1(exported):
    """COCOeval finds every annotation; with an id of 0 among them it would lose one."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(exported[1]))
        keys = ("image_id", "category_id", "segmentation")
        found = [{key: item[key] for key in keys} | {"score": 1.0} for item in coco.dataset["annotations"]]
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()

    assert evaluation.stats[0] == pytest.approx(1.0)


def test_a_dataset_without_masks_is_valid_json(tmp_path):
    """Empty lists are written as such."""
    write_dataset(tmp_path / "data", [image(0, b"a")])
    export_dataset(open_dataset(tmp_path / "data"), tmp_path / "out.json", to="coco")

    assert json.loads((tmp_path / "out.json").read_text())["annotations"] == []


def test_names_of_any_bytes_are_written(exported):
    """The file is ASCII; undecodable names are in display form."""
    path = exported[1]
    names = [item["file_name"] for item in json.loads(path.read_text("ascii"))["images"]]

    assert names == ["a.jpg", "c.jpg", r"d\xff.jpg", "über/ein Bild.jpg"]


def test_an_existing_file_is_not_overwritten(dataset, tmp_path):
    """The message says what would do."""
    (tmp_path / "out.json").write_text("mine")

    with pytest.raises(ConfigError, match="exists; choose another place"):
        export_dataset(dataset, tmp_path / "out.json", to="coco")
    assert (tmp_path / "out.json").read_text() == "mine"


def test_run_lengths_are_checked_before_others_see_them(dataset, tmp_path):
    """A mask that would crash pycocotools stops the export, and no file appears."""
    name = shard_name(0)
    source = pq.ParquetFile(pa.BufferReader(dataset.store.read(name)))
    footer = {key: value for key, value in source.metadata.metadata.items() if key != b"ARROW:schema"}
    bad = annotation(rectangle_mask(24, 32, 2, 3, 10, 6))
    records = sample_records()[:2]
    records[0] = replace(records[0], annotations=(replace(bad, counts="oooo"), *records[0].annotations[1:]))
    dataset.store.replace(name, sealed(records_to_table(records), footer))

    with pytest.raises(ShardError, match=r"image 0 \(a.jpg\): mask 0: .*sam-engine verify"):
        export_dataset(dataset, tmp_path / "out.json", to="coco")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
