"""`show`: an image with its masks, for notebooks."""

from dataclasses import replace

import numpy as np
import pytest

import sam_engine
from sam_engine.dataset.previews import draw_masks
from sam_engine.errors import ConfigError
from sam_engine.ops.rle import mask_to_runs
from sam_engine.web.pictures import Pictures


def test_an_image_is_found_by_id_and_by_name(dataset):
    """Both give the preview of its masks over its pixels."""
    record = next(record for record in dataset.records() if record.path == b"b.png")
    expected = draw_masks(Pictures(dataset).pixels(record), record)

    assert np.array_equal(np.asarray(sam_engine.show(dataset, record.image_id)), expected)
    assert np.array_equal(np.asarray(sam_engine.show(dataset.store.describe(), "b.png")), expected)


def test_a_record_may_have_lost_masks(dataset):
    """What is shown are the masks that it is given."""
    record = next(record for record in dataset.records() if record.path == b"b.png")
    bare = np.asarray(sam_engine.show(dataset, replace(record, annotations=())))

    assert np.array_equal(bare, Pictures(dataset).pixels(record))


@pytest.mark.parametrize("image", [99, "absent.png"])
def test_an_image_that_is_not_there_is_named(dataset, image):
    """One sentence with the dataset and the image."""
    with pytest.raises(ConfigError, match=f"has no image .*{image}"):
        sam_engine.show(dataset, image)


@pytest.mark.parametrize("mode", ["binary_mask", "uncompressed_rle", "coco_rle"])
def test_what_a_generator_found_is_shown_over_its_pixels(dataset, mode):
    """In each of its output modes as the dataset's own masks are."""
    record = next(record for record in dataset.records() if record.path == b"b.png")
    pixels = Pictures(dataset).pixels(record)
    found = sam_engine.generated_masks(dataset, "b.png")
    for each, mask in zip(found, record.annotations, strict=True):
        if mode == "coco_rle":
            each["segmentation"] = {"size": list(mask.size), "counts": mask.counts}
        if mode == "uncompressed_rle":
            runs = mask_to_runs(each["segmentation"]).tolist()
            each["segmentation"] = {"size": list(mask.size), "counts": runs}

    assert np.array_equal(np.asarray(sam_engine.show(found, pixels)), draw_masks(pixels, record))


def test_masks_are_given_as_the_generator_gives_them(dataset):
    """The same keys, and the masks of the rows."""
    record = next(record for record in dataset.records() if record.path == b"b.png")
    found = sam_engine.generated_masks(dataset, record.image_id)
    [*keys] = found[0]

    assert keys == [
        "segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"
    ]  # fmt: skip
    assert [int(each["segmentation"].sum()) for each in found] == [mask.area for mask in record.annotations]


def test_supervision_takes_them(dataset):
    """Its own reader of what Segment Anything returns."""
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    record = next(record for record in dataset.records() if record.path == b"b.png")
    detections = supervision.Detections.from_sam(sam_engine.generated_masks(dataset, "b.png"))

    assert sorted(detections.mask.sum(axis=(1, 2))) == sorted(mask.area for mask in record.annotations)


def test_masks_of_another_size_are_refused(dataset):
    """They would lie elsewhere."""
    found = sam_engine.generated_masks(dataset, "b.png")

    with pytest.raises(ConfigError, match="not of an image of 10 x 9 pixels"):
        sam_engine.show(found, np.zeros((9, 10, 3), np.uint8))
