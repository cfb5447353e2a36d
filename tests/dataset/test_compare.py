"""Comparing two datasets: matching, shares and the borderline account."""

from dataclasses import replace

import numpy as np
import pytest

from sam_engine.config import AmgConfig
from sam_engine.dataset.compare import Comparison, compare_datasets, compare_images, is_borderline
from sam_engine.errors import ShardError
from sam_engine.ops.rle import encode_mask
from sam_engine.structures import Annotation, ImageRecord, ImageStatus

CONFIG = AmgConfig()


def rectangle(x, y, w, h, *, predicted_iou=0.95, stability_score=0.97, point=(0.5, 0.5)):
    mask = np.zeros((100, 120), bool)
    mask[y : y + h, x : x + w] = True
    return Annotation(
        size=mask.shape,
        counts=encode_mask(mask),
        bbox=(x, y, w - 1, h - 1),
        area=w * h,
        predicted_iou=predicted_iou,
        stability_score=stability_score,
        crop_box=(0, 0, 120, 100),
        point_coords=(point,),
    )


def image(*annotations, image_id=0, path=b"a.jpg"):
    return ImageRecord(image_id=image_id, path=path, status=ImageStatus.OK, annotations=annotations)


def test_an_image_equals_itself_whatever_the_order():
    """Identical masks match by their bytes; order does not count."""
    a, b = rectangle(0, 0, 30, 30), rectangle(50, 50, 40, 20)

    result = compare_images(image(a, b), image(b, a), CONFIG)

    assert (result.num_identical, result.num_999, result.num_99, result.num_different) == (2, 2, 2, 0)


def test_masks_match_one_to_one():
    """A duplicate in one dataset has no counterpart left in the other."""
    a = rectangle(0, 0, 30, 30)

    result = compare_images(image(a, a), image(a), CONFIG)

    assert (result.num_identical, result.num_different, result.num_images_with_other_count) == (1, 1, 1)
    assert result.shares["identical"] == 0.5


def test_shares_count_by_iou():
    """A mask that gains 1 column of 80 (IoU 0.988) is different; one that gains 1 of 110 has 0.991."""
    first = image(rectangle(0, 0, 80, 20), rectangle(0, 50, 110, 20))
    second = image(rectangle(0, 0, 81, 20), rectangle(0, 50, 111, 20))

    result = compare_images(first, second, CONFIG)

    assert (result.num_99, result.num_999, result.num_identical, result.num_different) == (1, 0, 0, 2)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param({"predicted_iou": 0.8809}, True, id="predicted IoU near its threshold"),
        pytest.param({"stability_score": 0.9505}, True, id="stability near its threshold"),
        pytest.param({}, False, id="neither"),
    ],
)
def test_a_score_near_its_threshold_is_borderline(scores, expected):
    """Within a thousandth of a threshold, rounding may decide."""
    assert is_borderline(rectangle(0, 0, 30, 30, **scores), [], CONFIG) is expected


def test_a_rival_of_equal_score_makes_a_mask_borderline():
    """NMS may have kept either of two prompts' masks; of one prompt there is only one."""
    mask = rectangle(0, 0, 30, 30)
    rival = rectangle(0, 0, 30, 29, predicted_iou=0.9505, point=(9.5, 9.5))

    assert is_borderline(mask, [rival], CONFIG)
    assert not is_borderline(mask, [replace(rival, point_coords=mask.point_coords)], CONFIG)
    assert not is_borderline(mask, [replace(rival, predicted_iou=0.99)], CONFIG)


def test_comparisons_add_up():
    """Counts are summed, errors are the largest."""
    total = Comparison(num_first=2, max_stability_error=0.1) + Comparison(
        num_first=3, max_stability_error=0.2
    )

    assert (total.num_first, total.max_stability_error) == (5, 0.2)


@pytest.mark.parametrize("others", [[], [image(path=b"b.jpg")], [image(), image(image_id=1, path=b"c.jpg")]])
def test_other_images_are_refused(others):
    """A missing, another or an extra image is named."""
    with pytest.raises(ShardError, match=r"[abc]\.jpg"):
        list(compare_datasets([image()], others, CONFIG))
