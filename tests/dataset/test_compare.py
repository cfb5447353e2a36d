"""Comparing two datasets: matching, shares and the borderline account."""

import pytest

from sam_engine.config import AmgConfig
from sam_engine.dataset.borderline import Reason
from sam_engine.dataset.compare import Comparison, compare_datasets, compare_images
from sam_engine.errors import ShardError
from sam_engine.structures import ImageRecord, ImageStatus
from tests.helpers.dataset_builder import rectangle

CONFIG = AmgConfig()


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

    assert (result.num_99, result.num_999, result.num_identical, result.num_different) == (1, 0, 0, 4)


def test_differences_are_named_or_explained():
    """One mask at the threshold of predicted IoU, and one that grew by a column of 80."""
    same, near = rectangle(0, 0, 80, 20), rectangle(0, 30, 20, 20, score=0.8803)
    first = image(same, rectangle(0, 60, 80, 20), near, image_id=7)
    second = image(same, rectangle(0, 60, 81, 20), image_id=7)

    result = compare_images(first, second, CONFIG)

    assert result.num_different == 3
    assert result.num_by_reason == {Reason.PREDICTED_IOU.value: 1}
    assert result.num_unexplained == 2
    assert [(m.image_id, m.dataset, m.mask) for m in result.unexplained] == [(7, 1, 1), (7, 2, 1)]
    assert {round(mask.iou, 4) for mask in result.unexplained} == {round(80 / 81, 4)}


def test_tolerance_and_iou_can_be_chosen():
    """Half precision moves scores by more than a thousandth, and masks by more than that."""
    first = image(rectangle(0, 0, 80, 20), rectangle(0, 30, 20, 20, score=0.885))
    second = image(rectangle(0, 0, 81, 20))

    assert compare_images(first, second, CONFIG).num_unexplained == 3
    assert compare_images(first, second, CONFIG, same_iou=0.98).num_unexplained == 1
    assert compare_images(first, second, CONFIG, same_iou=0.98, tolerance=0.01).num_unexplained == 0


def test_named_differences_are_limited():
    """Two datasets that have nothing in common do not fill the memory."""
    total = compare_images(image(rectangle(0, 0, 80, 20)), image(), CONFIG)
    for _ in range(8):
        total += total

    assert (total.num_unexplained, len(total.unexplained)) == (256, 100)


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
