"""Sources of annotated images: what is read is what was annotated, or an error that names the place."""

import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from sam_engine.dataset.corrections import CorrectionLog
from sam_engine.errors import ConfigError, ImageError, InputError
from sam_engine.formats.source import open_source, read_images
from sam_engine.ops.rle import encode_mask
from tests.helpers.drawn_data import NUM_IMAGES, draw, rle, write_coco, write_folder, write_our_dataset


def assert_masks(found, masks) -> None:
    assert len(found.runs) == len(masks)
    for number, mask in enumerate(masks):
        np.testing.assert_array_equal(found.mask(number), mask)


def test_a_tar_is_read_in_any_order(drawn_tar: Path):
    """Images are found by number without unpacking; masks are exact, colours within JPEG's noise."""
    source = open_source(drawn_tar)

    assert (source.name, len(source)) == ("drawn", NUM_IMAGES)
    for index in (5, 0, 7):
        _, masks = draw(index)
        found = source.read(index)
        assert found.image_id == source.image_id(index) == 100 + index
        assert_masks(found, masks)
        assert found.pixels[masks[0]].mean(axis=0) == pytest.approx([250, 210, 60], abs=10)


def test_a_folder_holds_what_its_tar_holds(drawn_tar: Path, tmp_path: Path):
    """SA-1B unpacked gives the same images."""
    with tarfile.open(drawn_tar) as archive:
        archive.extractall(tmp_path / "folder", filter="data")
    folder = open_source(tmp_path / "folder")

    for found, expected in zip(read_images(folder), read_images(open_source(drawn_tar)), strict=True):
        assert found.image_id == expected.image_id
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        assert_masks(found, expected.masks)


def test_a_dataset_is_read_with_its_originals(tmp_path: Path):
    """Masks come from the rows, pixels from the input of the run; images without masks are left out."""
    source = open_source(write_our_dataset(tmp_path, 4))

    assert [source.image_id(index) for index in range(len(source))] == [0, 1, 2]
    for index in (2, 0):
        pixels, masks = draw(index)
        found = source.read(index)
        np.testing.assert_array_equal(found.pixels, pixels)
        assert_masks(found, masks)


def test_the_images_of_a_dataset_may_have_moved(tmp_path: Path):
    """``images`` says where they are now; without it the missing input is named."""
    dataset = write_our_dataset(tmp_path, 2)
    (tmp_path / "photos").rename(tmp_path / "elsewhere")

    with pytest.raises(InputError, match="photos"):
        open_source(dataset)
    source = open_source(dataset, str(tmp_path / "elsewhere"))
    np.testing.assert_array_equal(source.read(0).pixels, draw(0)[0])


def test_an_image_that_changed_is_refused(tmp_path: Path):
    """Pixels that were not annotated are never paired with the masks."""
    dataset = write_our_dataset(tmp_path, 3)
    (tmp_path / "photos" / "0.png").write_bytes((tmp_path / "photos" / "1.png").read_bytes())

    with pytest.raises(ImageError, match="not those that were annotated"):
        open_source(dataset).read(0)


def test_corrections_are_applied(tmp_path: Path):
    """Training sees masks as people left them, also on an image on which the model found none."""
    dataset = write_our_dataset(tmp_path, 3)
    (_, rectangle), added = draw(0)[1], np.zeros((96, 96), bool)
    added[3:9, 4:30] = True
    with CorrectionLog(dataset, by="Ada") as log:
        log.delete(0, 0)
        log.add(2, (96, 96), encode_mask(added))
    source = open_source(dataset)

    assert_masks(source.read(0), [rectangle])
    assert_masks(source.read(2), [added])
    assert_masks(source.read(1), draw(1)[1])


def test_corrections_of_an_unknown_image_are_refused(tmp_path: Path):
    """A log that belongs to another dataset does not go unnoticed."""
    dataset = write_our_dataset(tmp_path, 2)
    with CorrectionLog(dataset, by="Ada") as log:
        log.accept(5)

    with pytest.raises(InputError, match="corrections of image 5, which was not annotated"):
        open_source(dataset)


def test_coco_masks_are_pycocotools(tmp_path: Path):
    """Polygons, run lengths compressed and not: the masks are those that pycocotools makes of them."""
    disc, rectangle = draw(0)[1]
    polygons = [[10.5, 10, 40, 12.25, 30, 50], [60, 60, 90, 60, 90, 97.5, 60, 90]]
    flat = rectangle.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    plain = {"size": [96, 96], "counts": np.diff(edges, prepend=0, append=flat.size).tolist()}
    source = open_source(write_coco(tmp_path, [polygons, plain, rle(disc)]), str(tmp_path / "images"))

    expected = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, 96, 96))).astype(bool)
    assert len(source) == 1
    assert source.read(0).image_id == source.image_id(0) == 7
    assert_masks(source.read(0), [expected, rectangle, disc])


def test_coco_licences_have_their_short_names(tmp_path: Path):
    """Creative Commons licences are told by their address."""
    source = open_source(write_coco(tmp_path, [rle(draw(0)[1][0])]), str(tmp_path / "images"))

    assert source.licence(0) == "CC BY-NC 2.0"


def test_crowds_are_no_masks(tmp_path: Path):
    """COCO's crowd regions cover many things at once."""
    path = write_coco(tmp_path, [rle(draw(0)[1][0])], iscrowd=1)

    with pytest.raises(InputError, match="no image has an annotation that is not a crowd"):
        open_source(path, str(tmp_path / "images"))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3]], "no list of x, y"),
        ([["a", 2, 3, 4, 5, 6]], "no list of x, y"),
        ([[0, 0, 1e9, 0, 0, 5]], "outside of its image"),
        ([[0, 0, float("nan"), 0, 0, 5]], "outside of its image"),
        ({"size": [96, 96], "counts": [5, 4]}, "do not fit an image of 96 x 96"),
        ({"size": [96, 96], "counts": "000"}, "a mask is malformed"),
        ({"size": [5, 5], "counts": "i0"}, r"a mask of \[5, 5\] on an image of \[96, 96\]"),
        ({}, "do not fit an image"),
        (None, "a mask is malformed"),
    ],
)
def test_malformed_coco_annotations_are_that_images_error(tmp_path: Path, segmentation, message: str):
    """Nothing unchecked reaches pycocotools, and the run can leave the image out."""
    source = open_source(write_coco(tmp_path, [segmentation]), str(tmp_path / "images"))

    with pytest.raises(ImageError, match=message):
        source.read(0)


def test_damaged_files_are_that_images_error(tmp_path: Path):
    """A cut image, annotations that are no JSON or of another image: named, and the others can be read."""
    folder = write_folder(tmp_path / "folder", 4)
    (folder / "sa_100.jpg").write_bytes((folder / "sa_100.jpg").read_bytes()[:500])
    (folder / "sa_101.json").write_text("{")
    (folder / "sa_102.json").write_bytes((folder / "sa_103.json").read_bytes())
    source = open_source(folder)

    for index, message in ((0, "ends|truncated|decoder"), (1, r"sa_101\.json"), (2, "names image 103")):
        with pytest.raises(ImageError, match=message):
            source.read(index)
    assert source.read(3).image_id == 103


def test_sources_travel_to_other_processes(drawn_tar: Path, tmp_path: Path):
    """All kinds can be pickled."""
    coco = write_coco(tmp_path / "coco", [rle(draw(0)[1][0])])
    ours = write_our_dataset(tmp_path / "ours", 2)

    for source in (
        open_source(drawn_tar),
        open_source(coco, str(coco.parent / "images")),
        open_source(ours),
    ):
        copied = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(copied.read(0).pixels, source.read(0).pixels)


@pytest.mark.parametrize(
    ("make", "images", "message"),
    [
        (lambda path: None, None, "there is no such file or folder"),
        (lambda path: path.write_bytes(b"no tar"), None, "uncompressed tar"),
        (lambda path: path.mkdir(), None, r"holds no sa_<id>\.jpg"),
        (lambda path: path.mkdir(), "images", r"data\.images must be null"),
    ],
)
def test_what_is_no_source_is_named(tmp_path: Path, make, images, message: str):
    """The message has the path and says what would do."""
    make(tmp_path / "it")

    with pytest.raises(InputError, match=message) as caught:
        open_source(tmp_path / "it", images)
    assert str(tmp_path / "it") in str(caught.value)


@pytest.mark.parametrize(
    ("content", "images", "message"),
    [
        (json.dumps({"images": []}), ".", "no COCO instances file"),
        ("[]", ".", "no COCO instances file"),
        ("{}", None, "data.images names no folder"),
        ("{}", "nowhere", "there is no folder nowhere"),
    ],
)
def test_what_is_no_coco_file_is_named(tmp_path: Path, content: str, images, message: str):
    """Other JSON, and a missing folder of images, are refused when the source is opened."""
    (tmp_path / "it.json").write_text(content)

    with pytest.raises(ConfigError, match=message):
        open_source(tmp_path / "it.json", images)
