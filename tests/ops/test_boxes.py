"""Crop boxes against SA-1B, NMS against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sam_engine.ops.boxes import (
    box_area,
    box_nms,
    box_xyxy_to_xywh,
    generate_crop_boxes,
    is_box_near_crop_edge,
    uncrop_boxes_xyxy,
    uncrop_points,
)

SA1B_RATIO = 512 / 1500


def test_crop_boxes_are_those_of_sa1b():
    """1500 x 2000: the crop_box values of real SA-1B files."""
    boxes, layers = generate_crop_boxes((1500, 2000), 2, SA1B_RATIO)

    assert boxes[0] == (0, 0, 2000, 1500)
    assert boxes[1:5] == [(x, y, x + 1256, y + 1006) for x in (0, 744) for y in (0, 494)]
    assert boxes[5:] == [
        (x, y, x + 692, min(y + 567, 1500)) for x in (0, 436, 872, 1308) for y in (0, 311, 622, 933)
    ]
    assert layers == [0] + [1] * 4 + [2] * 16


def test_last_crops_are_smaller_where_sides_do_not_divide():
    """1500 x 2250, 4 x 4: three columns of 755 pixels and one of 753."""
    boxes, _ = generate_crop_boxes((1500, 2250), 2, SA1B_RATIO)

    assert [box[2] - box[0] for box in boxes[5::4]] == [755, 755, 755, 753]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 4), st.floats(0, 1))
def test_crops_of_any_image_hold_pixels_and_cover_it(height, width, layers, ratio):
    """Even an image of few pixels has no empty crop, and each layer covers it."""
    boxes, box_layers = generate_crop_boxes((height, width), layers, ratio)

    for layer in range(layers + 1):
        covered = np.zeros((height, width), dtype=bool)
        for (x0, y0, x1, y1), box_layer in zip(boxes, box_layers, strict=True):
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            if box_layer == layer:
                covered[y0:y1, x0:x1] = True
        assert covered.all()


@pytest.mark.parametrize(
    ("x0", "x1", "near"), [(20, 300, True), (21, 300, False), (300, 672, True), (300, 671, False)]
)
def test_crop_edge_is_twenty_pixels_wide(x0, x1, near):
    """In crop (436, 311, 1128, 878) the outermost 20 px touch, inclusive."""
    boxes = torch.tensor([[x0, 200, x1, 300]])

    assert is_box_near_crop_edge(boxes, (436, 311, 1128, 878), (0, 0, 2000, 1500)).tolist() == [near]


def test_edges_of_the_image_do_not_count():
    """A mask cut off by the image itself is whole."""
    boxes = torch.tensor([[0, 0, 100, 100]])

    assert is_box_near_crop_edge(boxes, (0, 0, 692, 567), (0, 0, 2000, 1500)).tolist() == [False]


def test_boxes_and_points_shift_to_the_image():
    """Uncropping adds the crop's corner."""
    assert uncrop_boxes_xyxy(torch.tensor([[1, 2, 3, 4]]), (10, 20, 50, 60)).tolist() == [[11, 22, 13, 24]]
    assert uncrop_points(torch.tensor([[0.5, 1.5]]), (10, 20, 50, 60)).tolist() == [[10.5, 21.5]]


def test_xywh_has_no_plus_one():
    """Width is the difference of the inclusive indices."""
    assert box_xyxy_to_xywh(torch.tensor([[2, 3, 2, 7]])).tolist() == [[2, 3, 0, 4]]
    assert box_xyxy_to_xywh(np.array([[2, 3, 2, 7]])).tolist() == [[2, 3, 0, 4]]
    assert box_xyxy_to_xywh([2, 3, 2, 7]) == [2, 3, 0, 4]
    assert box_area(torch.tensor([[2, 3, 4, 7]])).tolist() == [8]


def nms_by_loops(boxes, scores, threshold):
    """The definition, one pair at a time, in float32 with a float64 comparison."""
    boxes = np.asarray(boxes, dtype=np.float32)
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept = []
    for i in order:
        dropped = False
        for j in kept:
            width = max(np.float32(0), min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0]))
            height = max(np.float32(0), min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1]))
            area_i, area_j = ((boxes[k][2] - boxes[k][0]) * (boxes[k][3] - boxes[k][1]) for k in (i, j))
            union = area_j + area_i - width * height
            if union > 0 and float(width * height / union) > threshold:
                dropped = True
        if not dropped:
            kept.append(i)
    return kept


@given(st.integers(0, 60), st.sampled_from([0.0, 0.5, 0.6, 0.7, 1.0]), st.randoms(use_true_random=False))
def test_nms_equals_plain_loops(num_boxes, threshold, random):
    """Small integer boxes: ties, equal boxes, degenerate boxes and IoUs on the threshold all occur."""
    boxes, scores = [], []
    for _ in range(num_boxes):
        x, y = random.randrange(6), random.randrange(6)
        boxes.append([x, y, x + random.randrange(6), y + random.randrange(6)])
        scores.append(random.randrange(4) / 4)

    kept = box_nms(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), threshold)

    assert kept.tolist() == nms_by_loops(boxes, scores, threshold)


def test_nms_of_more_than_a_thousand_boxes():
    """Above 1000 boxes torchvision takes another road to the same result."""
    generator = np.random.default_rng(0)
    corner = generator.integers(0, 60, (1010, 2))
    boxes = np.concatenate([corner, corner + generator.integers(20, 60, (1010, 2))], axis=1)
    scores = generator.integers(0, 50, 1010) / 64

    kept = box_nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.7)

    assert kept.tolist() == nms_by_loops(boxes, scores, 0.7)


def test_boxes_without_extent_survive():
    """IoU 0/0 is above no threshold: equal lines are all kept."""
    line = [[5, 5, 5, 20], [5, 5, 5, 20]]

    assert box_nms(torch.tensor(line), torch.tensor([0.9, 0.95]), 0.7).tolist() == [1, 0]
