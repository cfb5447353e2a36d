"""Ground truth in each of its forms."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_builder import image as image_record
from dataset_builder import rectangle_mask, write_dataset
from drawn_truth import HEIGHT, WIDTH, draw, sa1b_files
from PIL import Image
from pycocotools import mask as mask_utils

from sam_engine.errors import ConfigError, InputError
from sam_engine.evaluation.truth import open_truth


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

    assert (truth.name, truth.num_images) == ("drawn", 3)
    assert (first.image_id, second.image_id) == (100, 101)
    np.testing.assert_array_equal(second.masks, draw(1)[1])
    assert second.areas == tuple(float(mask.sum()) for mask in draw(1)[1])


def test_rles_are_those_of_pycocotools(truth_tar: Path):
    """What pycocotools is given decodes to the masks."""
    [image] = open_truth(truth_tar).first(1)

    np.testing.assert_array_equal(mask_utils.decode(image.rles).transpose(2, 0, 1).astype(bool), image.masks)


def test_folder_equals_tar(truth_tar: Path, tmp_path: Path):
    """The same files unpacked are the same truth."""
    folder = open_truth(write_folder(tmp_path / "unpacked"))

    for a, b in zip(folder.read(), open_truth(truth_tar).first(2), strict=True):
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

    [image] = open_truth(tmp_path / "out").read()

    assert image.image_id == 1
    assert image.pixels[0, 0].tolist() == [10, 20, 30]
    np.testing.assert_array_equal(image.masks, [mask])


def test_coco_polygons_and_runs(tmp_path: Path):
    """Polygons are rasterised as pycocotools does; run lengths are read in both forms; crowds are not."""
    polygon = [2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]
    mask = rectangle_mask(20, 30, 4, 5, 6, 7)
    packed = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    plain = [85, 7, 13, 7, 13, 7, 13, 7, 13, 7, 13, 7, 408]
    path = write_coco(
        tmp_path,
        [
            {"segmentation": [polygon], "area": 60.5, "iscrowd": 0},
            {"segmentation": {"size": [20, 30], "counts": packed["counts"].decode()}},
            {"segmentation": {"size": [20, 30], "counts": plain}},
            {"segmentation": {"size": [20, 30], "counts": [0, 600]}, "iscrowd": 1},
        ],
    )
    by_polygon = mask_utils.decode(mask_utils.frPyObjects([polygon], 20, 30))[..., 0].astype(bool)

    [image] = open_truth(path, str(tmp_path)).read()

    assert image.image_id == 7
    np.testing.assert_array_equal(image.masks, [by_polygon, mask, mask])
    assert image.areas == (60.5, 42.0, 42.0)


def test_empty_masks_are_passed_over(tmp_path: Path):
    """A mask without a pixel cannot be prompted; an image with no other is not yielded."""
    path = write_coco(tmp_path, [{"segmentation": {"size": [20, 30], "counts": [600]}, "iscrowd": 0}])

    assert list(open_truth(path, str(tmp_path)).read()) == []


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [HEIGHT, WIDTH], "counts": "1"}, "the runs do not fit"),
        ({"size": [WIDTH, HEIGHT], "counts": "1"}, r"a mask of \(96, 64\) lies on an image of \(64, 96\)"),
        ({"size": [HEIGHT, WIDTH]}, "are not SA-1B's"),
    ],
)
def test_annotations_that_contradict_the_image_stop(tmp_path: Path, segmentation: dict, message: str):
    """Nothing unchecked reaches pycocotools; the image is named."""
    folder = write_folder(tmp_path / "unpacked", numbers=[0])
    record = {"image": {"image_id": 100}, "annotations": [{"segmentation": segmentation}]}
    (folder / "sa_100.json").write_text(json.dumps(record))

    with pytest.raises(InputError, match=rf"sa_100.*{message}"):
        list(open_truth(folder).read())


def test_what_is_no_truth_says_so(tmp_path: Path):
    """A missing path, a folder without pairs, a COCO file without its images."""
    (tmp_path / "empty").mkdir()
    path = write_coco(tmp_path, [])

    with pytest.raises(ConfigError, match="there is no file or folder"):
        open_truth(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"holds no sa_<id>\.jpg"):
        open_truth(tmp_path / "empty")
    with pytest.raises(ConfigError, match="images=FOLDER"):
        open_truth(path)
