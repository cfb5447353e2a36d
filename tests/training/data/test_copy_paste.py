"""Things of one image pasted onto another."""

import numpy as np
import pytest

from sam_engine.training.data.copy_paste import paste


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (20, 20)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_pasted_pixels_and_masks():
    """A thing brings pixels and mask; of a mask partly under it the rest is left, a hidden one is gone."""
    image, other = np.zeros((20, 20, 3), np.float32), np.full((20, 20, 3), 9, np.float32)
    partly, hidden = box(0, 0, 10, 10), box(2, 12, 4, 14)
    thing = box(2, 8, 8, 16)
    masks = paste(image, [partly, hidden], other, [thing], np.random.default_rng(0))

    assert [mask.tolist() for mask in masks] == [thing.tolist(), (partly & ~thing).tolist()]
    assert ((image == 9).all(axis=2) == thing).all()


def test_other_image_may_be_of_another_size():
    """Only what both have in common is pasted."""
    image, other = np.zeros((20, 10, 3), np.float32), np.ones((8, 30, 3), np.float32)
    [mask] = paste(image, [], other, [box(4, 6, 8, 30, (8, 30))], np.random.default_rng(0))

    assert (mask == box(4, 6, 8, 10, (20, 10))).all()


@pytest.mark.parametrize("thing", [box(0, 0, 0, 0), box(0, 0, 20, 19)])
def test_nothing_and_backgrounds_are_not_pasted(thing: np.ndarray):
    """A mask over most of the image would hide it."""
    image, mask = np.zeros((20, 20, 3), np.float32), box(1, 1, 5, 5)

    assert paste(image, [mask], image + 1, [thing], np.random.default_rng(0)) == [pytest.approx(mask)]
    assert not image.any()


def test_later_things_cover_earlier_ones():
    """At most three are pasted, and no pixel is in two masks."""
    image, other = np.zeros((20, 20, 3), np.float32), np.ones((20, 20, 3), np.float32)
    things = [box(i, i, i + 6, i + 6) for i in range(6)]
    masks = paste(image, [], other, things, np.random.default_rng(1))

    assert 1 <= len(masks) <= 3
    assert np.sum(masks, axis=0).max() == 1
    assert (np.sum(masks, axis=0) == image[..., 0]).all()
