"""What is blurred cannot be recovered, and the rest stays."""

import numpy as np
import pytest

from sam_engine.privacy.blur import blur_boxes, region_of


def noise(height=120, width=160, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes(*rows):
    return np.array(rows, np.float64).reshape(-1, 4)


def test_outside_of_the_regions_nothing_changes():
    """To the pixel; and what came in is not written to."""
    pixels = noise()
    before = pixels.copy()
    blurred = blur_boxes(pixels, boxes([40, 30, 50, 60]))
    left, top, right, bottom = region_of(np.array([40, 30, 50, 60]), (120, 160))
    outside = np.ones((120, 160), bool)
    outside[top:bottom, left:right] = False

    assert np.array_equal(pixels, before)
    assert np.array_equal(blurred[outside], before[outside])


def test_a_region_is_its_box_and_a_margin_cut_at_the_edges():
    """15 % of the box on each side, in whole pixels."""
    assert region_of(np.array([40, 30, 20, 40]), (120, 160)) == (37, 24, 63, 76)
    assert region_of(np.array([-10, -10, 20, 40]), (120, 160)) == (0, 0, 13, 36)
    assert region_of(np.array([150, 100, 400, 400]), (120, 160)) == (90, 40, 160, 120)


def test_what_is_blurred_depends_on_the_means_of_sixteen_cells_alone():
    """Pixels shuffled within each cell of 26 x 26 give the same: where they were cannot be recovered."""
    pixels = noise()
    box = boxes([20, 15, 80, 80])
    left, top, right, bottom = region_of(box[0], (120, 160))
    assert (right - left, bottom - top) == (104, 104)
    shuffled = pixels.copy()
    rng = np.random.default_rng(1)
    for y in range(top, bottom, 26):
        for x in range(left, right, 26):
            cell = shuffled[y : y + 26, x : x + 26].reshape(-1, 3)
            shuffled[y : y + 26, x : x + 26] = rng.permutation(cell).reshape(26, 26, 3)

    assert not np.array_equal(shuffled, pixels)
    assert np.array_equal(
        blur_boxes(shuffled, box)[top:bottom, left:right], blur_boxes(pixels, box)[top:bottom, left:right]
    )


def test_a_small_box_keeps_one_colour():
    """Below 16 pixels there is one cell: no pattern of the 7 x 7 pixels is left."""
    blurred = blur_boxes(noise(), boxes([50, 50, 7, 7]))
    left, top, right, bottom = region_of(np.array([50, 50, 7, 7]), (120, 160))

    assert len(np.unique(blurred[top:bottom, left:right].reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("box", [[0, 0, 160, 120], [159, 119, 0.5, 0.5], [-50, -50, 51, 51], [10, 0, 1, 120]])
def test_boxes_at_the_edges_and_thin_ones_are_blurred(box):
    """Whole image, last pixel, a corner of a box outside, a line: stripes of black and white are gone."""
    pixels = noise()
    left, top, right, bottom = region_of(np.array(box), (120, 160))
    pixels[top:bottom, left:right][::2] = 0
    pixels[top:bottom, left:right][1::2] = 255
    blurred = blur_boxes(pixels, boxes(box)).astype(int)
    spread = np.ptp(blurred[top:bottom, left:right], axis=(0, 1)).max()

    assert spread < 64 if bottom - top > 1 else spread == 0


def test_the_same_boxes_blur_the_same():
    """Also when regions overlap."""
    both = boxes([20, 10, 60, 60], [50, 40, 60, 60])

    assert np.array_equal(blur_boxes(noise(), both), blur_boxes(noise(), both))
