"""Which differences between two datasets rounding explains, and which it does not."""

from dataclasses import replace

import pytest

from sam_engine.config import AmgConfig
from sam_engine.dataset.borderline import Match, Reason, explain_differences
from tests.helpers.dataset_builder import rectangle

CONFIG = AmgConfig()


def explain(first, second, matches=(), config=CONFIG):
    """Return the reasons by place; matches are (first, second, IoU)."""
    pairs = [Match(first=i, second=j, iou=iou, is_identical=False) for i, j, iou in matches]
    return explain_differences(first, second, pairs, config, same_iou=0.999)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        pytest.param({"score": 0.8809}, Reason.PREDICTED_IOU, id="predicted IoU within a thousandth"),
        pytest.param({"score": 0.8811}, None, id="predicted IoU farther off"),
        pytest.param({"stability": 0.9509}, Reason.STABILITY, id="stability within a thousandth"),
        pytest.param({"stability": 0.9511}, None, id="stability farther off"),
    ],
)
@pytest.mark.parametrize("side", [0, 1])
def test_a_score_near_its_threshold_explains(scores, reason, side):
    """In either dataset."""
    masks = ([], [])
    masks[side].append(rectangle(0, 0, 30, 30, **scores))

    assert explain(*masks) == {(side, 0): reason}


@pytest.mark.parametrize("name", ["pred_iou_thresh", "stability_score_thresh"])
def test_a_filter_that_is_off_explains_nothing(name):
    """At 0 all masks are kept, and a score of 0 is as good as any."""
    config = replace(CONFIG, **{name: 0.0})
    scores = {"pred_iou_thresh": "score", "stability_score_thresh": "stability"}

    assert explain([rectangle(0, 0, 30, 30, **{scores[name]: 0.0})], [], config=config) == {(0, 0): None}


def test_counterparts_need_no_reason():
    """Only masks whose match is below the wanted IoU are asked about."""
    a, b = rectangle(0, 0, 30, 30), rectangle(50, 50, 30, 30)

    assert explain([a, b], [a, b], [(0, 0, 1.0), (1, 1, 0.99)]) == {(0, 1): None, (1, 1): None}


def test_nms_may_have_chosen_either_of_two_prompts():
    """Their scores are as good as equal, and each dataset has one."""
    mask = rectangle(0, 0, 60, 60)
    rival = rectangle(0, 0, 60, 57, score=0.9505, point=(9.5, 9.5))

    assert set(explain([mask], [rival]).values()) == {Reason.ORDER}
    assert set(explain([mask], [replace(rival, predicted_iou=0.952)]).values()) == {None}


def test_another_mask_of_the_same_prompt_explains_nothing():
    """That is one candidate, computed differently: what the comparison is there to find."""
    mask, other = rectangle(0, 0, 60, 60), rectangle(0, 0, 60, 50)

    assert explain([mask], [other], [(0, 0, 0.83)]) == {(0, 0): None, (1, 0): None}


def test_a_box_iou_at_the_threshold_explains():
    """Boxes of 100 x 70 and 100 x 100 share 0.7 of their union; the better one may have dropped the other."""
    better = rectangle(0, 0, 101, 99, score=0.99)
    worse = rectangle(0, 0, 101, 69, point=(9.5, 9.5))  # boxes are 100 x 98 and 100 x 68: IoU 0.694
    near = replace(worse, bbox=(0, 0, 100, 68.6))  # IoU 0.7

    assert explain([better, worse], [better], [(0, 0, 1.0)]) == {(0, 1): None}
    assert explain([better, near], [better], [(0, 0, 1.0)]) == {(0, 1): Reason.BOX_IOU}


def test_only_a_mask_that_nms_takes_first_can_drop_another():
    """The worse of two never does, wherever their boxes lie."""
    worse = rectangle(0, 0, 101, 99, score=0.9)
    better = replace(rectangle(0, 0, 101, 69, point=(9.5, 9.5)), bbox=(0, 0, 100, 68.6))

    assert explain([worse, better], [worse], [(0, 0, 1.0)]) == {(0, 1): None}


def test_a_box_that_moved_across_the_threshold_explains():
    """The better mask is smaller in the second dataset: its box IoU with the other goes up across 0.7."""
    better, grown = rectangle(0, 0, 60, 90, score=0.99), rectangle(0, 0, 60, 92, score=0.99)
    mask = rectangle(0, 0, 60, 64, point=(9.5, 9.5))  # boxes 59 x 63 in 59 x 89 and 59 x 91: 0.708, 0.692
    mask_that_falls_out = [(0, 0, 0.9995)]

    assert explain([grown, mask], [better], mask_that_falls_out) == {(0, 1): Reason.BOX_IOU}
    assert explain([better, mask], [better], mask_that_falls_out) == {(0, 1): None}


@pytest.mark.parametrize(
    ("iou", "reason"),
    [
        pytest.param(898 / 900, Reason.PIXELS, id="2 pixels of 900"),
        pytest.param(897 / 900, None, id="3 pixels of 900"),
    ],
)
def test_two_pixels_of_one_candidate_explain(iou, reason):
    """Their logits may lie at 0. The prompt is the same, and so is the score."""
    mask = rectangle(0, 0, 30, 30)
    other = replace(mask, area=round(900 * iou))

    assert explain([mask], [other], [(0, 0, iou)]) == {(0, 0): reason, (1, 0): reason}
    assert set(explain([mask], [replace(other, predicted_iou=0.96)], [(0, 0, iou)]).values()) == {None}


def test_what_an_explained_mask_suppresses_is_explained():
    """The first has A, whose stability is borderline; without it the second has B, and so not C: a chain."""
    a = rectangle(0, 0, 60, 60, score=0.99, stability=0.9502)
    b = rectangle(0, 0, 60, 54, score=0.97, point=(9.5, 9.5))
    c = rectangle(0, 6, 60, 48, score=0.96, point=(19.5, 9.5))
    reasons = explain([a, c], [b])

    assert reasons == {(0, 0): Reason.STABILITY, (1, 0): Reason.NEIGHBOUR, (0, 1): Reason.NEIGHBOUR}


def test_a_chain_must_begin_somewhere():
    """The same masks, none of them at a threshold: nothing is explained."""
    a = rectangle(0, 0, 60, 60, score=0.99)
    b = rectangle(0, 0, 60, 54, score=0.97, point=(9.5, 9.5))

    assert explain([a], [b]) == {(0, 0): None, (1, 0): None}


def test_a_mask_does_not_explain_one_beside_it():
    """B does not overlap A enough for NMS to choose between them, or is of the same dataset, or better."""
    a = rectangle(0, 0, 60, 60, score=0.97, stability=0.9502)
    aside = rectangle(70, 0, 40, 60, point=(9.5, 9.5))
    below = rectangle(0, 0, 60, 54, score=0.96, point=(9.5, 9.5))
    better = replace(below, predicted_iou=0.99)

    assert explain([a], [aside])[1, 0] is None
    assert explain([a, below], [])[0, 1] is None
    assert explain([a], [better])[1, 0] is None


def test_between_crops_the_smaller_crop_comes_first():
    """With the threshold of NMS between crops."""
    config = replace(CONFIG, crop_nms_thresh=0.5)
    in_crop = rectangle(0, 0, 60, 60, score=0.9, stability=0.9502, crop=(0, 0, 64, 64))
    in_image = rectangle(0, 0, 60, 36, score=0.99, point=(9.5, 9.5))  # box IoU 0.59

    assert explain([in_crop], [in_image], config=config)[1, 0] is Reason.NEIGHBOUR
    assert explain([in_crop], [in_image])[1, 0] is None
    assert (
        explain([replace(in_crop, stability_score=0.97)], [replace(in_image, stability_score=0.9502)])[0, 0]
        is None
    )
