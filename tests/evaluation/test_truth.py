"""Ground truth in each of its forms."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from sam_engine.errors import ConfigError, InputError
from sam_engine.evaluation.truth import open_truth
from tests.helpers.dataset_builder import image as image_record
from tests.helpers.dataset_builder import rectangle_mask, write_dataset
from tests.helpers.drawn_data import SIZE, draw, sa1b_files


def write_folder(folder: Path, numbers=(0, 1)) -> Path:
    """Write the files of drawn images; return the folder."""
    folder.mkdir()
    for number in numbers:
        for name, data in sa1b_files(number).items():
            (folder / name).write_bytes(data)
    return folder


def write_coco(folder: Path, annotations: list[dict]) -> Path:
    """Write one grey image of 20 x 30 pixels and a COCO file with annotations of it; return the file."""
    Image.new("RGB", (30, 20), (90, 90, 90)).save(folder / "a.jpg")
    document = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 30, "height": 20},
            {"id": 8, "file_name": "b.jpg"},
        ],
        "annotations": [{"image_id": 7, **annotation} for annotation in annotations],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(document))
    return path


def test_tar_has_every_mask(truth_tar: Path):
    """Masks, ids and areas of an SA-1B tar are those that were drawn; limits count images."""
    truth = open_truth(truth_tar)

    [first, second] = truth.first(2)

    assert (truth.name, len(truth)) == ("drawn", 3)
    assert (first.image_id, second.image_id) == (100, 101)
    np.testing.assert_array_equal(second.masks, draw(1)[1])
    assert second.areas.tolist() == [mask.sum() for mask in draw(1)[1]]


def test_rles_are_those_of_pycocotools(truth_tar: Path):
    """What pycocotools is given decodes to the masks."""
    [image] = open_truth(truth_tar).first(1)

    np.testing.assert_array_equal(mask_utils.decode(image.rles).transpose(2, 0, 1).astype(bool), image.masks)


def test_folder_equals_tar(truth_tar: Path, tmp_path: Path):
    """The same files unpacked are the same truth."""
    folder = open_truth(write_folder(tmp_path / "unpacked"))

    for a, b in zip(folder.first(), open_truth(truth_tar).first(2), strict=True):
        assert a.image_id == b.image_id
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.masks, b.masks)


def test_dataset_of_ours(tmp_path: Path):
    """A dataset is read with the pixels of its input; images without masks are passed over."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 24), (10, 20, 30)).save(photos / name)
    mask = rectangle_mask(24, 32, 2, 3, 10, 6)
    digest = hashlib.sha256((photos / "b.png").read_bytes()).hexdigest()
    records = [image_record(0, b"a.png"), replace(image_record(1, b"b.png", [mask]), sha256=digest)]
    write_dataset(tmp_path / "out", records, input_root=str(photos))

    [image] = open_truth(tmp_path / "out").first()

    assert image.image_id == 1
    assert image.pixels[0, 0].tolist() == [10, 20, 30]
    np.testing.assert_array_equal(image.masks, [mask])


def test_coco_without_crowds_and_empty_masks(tmp_path: Path):
    """What covers no pixel cannot be prompted, and a crowd is no single thing."""
    polygon = [2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]
    path = write_coco(
        tmp_path,
        [
            {"segmentation": {"size": [20, 30], "counts": [600]}, "iscrowd": 0},
            {"segmentation": [polygon], "iscrowd": 0},
            {"segmentation": {"size": [20, 30], "counts": [0, 600]}, "iscrowd": 1},
        ],
    )

    [image] = open_truth(path, str(tmp_path)).first()

    assert image.image_id == 7
    np.testing.assert_array_equal(
        image.masks, [mask_utils.decode(mask_utils.frPyObjects([polygon], 20, 30))[..., 0]]
    )


def test_images_without_masks_are_passed_over(tmp_path: Path):
    """There is nothing to score on them."""
    path = write_coco(tmp_path, [{"segmentation": {"size": [20, 30], "counts": [600]}, "iscrowd": 0}])

    assert list(open_truth(path, str(tmp_path)).first()) == []


def test_annotations_that_contradict_the_image_stop(tmp_path: Path):
    """An image that were left out would change the scores; it is named."""
    folder = write_folder(tmp_path / "unpacked", numbers=[0])
    record = {
        "image": {"image_id": 100},
        "annotations": [{"segmentation": {"size": [SIZE, SIZE], "counts": "1"}}],
    }
    (folder / "sa_100.json").write_text(json.dumps(record))

    with pytest.raises(InputError, match="unpacked: image 100: a mask is malformed"):
        list(open_truth(folder).first())


def test_what_is_no_truth_says_so(tmp_path: Path):
    """A missing path, a folder without pairs, a COCO file without its images."""
    (tmp_path / "empty").mkdir()
    path = write_coco(tmp_path, [])

    with pytest.raises(ConfigError, match="there is no such file or folder"):
        open_truth(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"holds no sa_<id>\.jpg"):
        open_truth(tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"images=\[FOLDER\]"):
        open_truth(path)
