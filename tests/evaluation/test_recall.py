"""Average recall against pycocotools' COCOeval."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam_engine.evaluation.recall import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    NEVER,
    RecallCounter,
    in_range,
    match_ranks,
)
from sam_engine.ops.rle import mask_ious

SIZE = (160, 200)


def rle(mask: np.ndarray) -> dict:
    """Return pycocotools' run lengths of an (H, W) mask."""
    return mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))


def random_rectangle(rng: np.random.Generator) -> np.ndarray:
    """Return a mask (160, 200) of a rectangle of any of COCO's three sizes."""
    mask = np.zeros(SIZE, bool)
    side = rng.choice([24, 60, 130])
    h, w = rng.integers(side // 2, side, 2)
    top, left = rng.integers(0, SIZE[0] - h + 1), rng.integers(0, SIZE[1] - w + 1)
    mask[top : top + h, left : left + w] = True
    return mask


def toy_set(seed: int) -> list[tuple[list[np.ndarray], list[np.ndarray], np.ndarray]]:
    """Return (truth, found, scores) of some images: found masks are shifted truth and noise, with ties."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(4):
        truth = [random_rectangle(rng) for _ in range(6)]
        found = [np.roll(mask, rng.integers(-4, 5, 2), (0, 1)) for mask in truth for _ in range(3)]
        found += [random_rectangle(rng) for _ in range(8)] + truth[:1]
        images.append((truth, found, np.round(rng.random(len(found)), 1)))
    return images


def coco_recall(images, max_dets: list[int]) -> np.ndarray:
    """Return COCOeval's class-agnostic recall (T, areas, budgets); -1 where there is no truth."""
    truth, found = COCO(), []
    annotations = []
    for image_id, (masks, candidates, scores) in enumerate(images, start=1):
        for mask in masks:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": rle(mask),
                    "area": float(mask.sum()),
                }
            )
        for mask, score in zip(candidates, scores, strict=True):
            found.append(
                {"image_id": image_id, "category_id": 1, "segmentation": rle(mask), "score": float(score)}
            )
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, len(images) + 1)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "segm")
        evaluation.params.maxDets = max_dets
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["recall"][:, 0]


@pytest.mark.parametrize("seed", range(3))
def test_recall_equals_cocoeval(seed: int):
    """Recall at every threshold, size and budget is COCOeval's, ties of scores included."""
    images = toy_set(seed)
    budgets = [3, 10, 100]
    expected = coco_recall(images, budgets)

    counter = RecallCounter()
    for truth, found, scores in images:
        order = np.argsort(-scores, kind="mergesort")
        ious = mask_ious([rle(found[i]) for i in order], [rle(mask) for mask in truth])
        counter.add(ious, np.array([mask.sum() for mask in truth], float))

    for a, area in enumerate(AREA_RANGES):
        for b, budget in enumerate(budgets):
            curve = counter.recall_curve(area, budget)
            np.testing.assert_allclose(np.full(10, -1.0) if curve is None else curve, expected[:, a, b])


def test_a_mask_finds_one_thing():
    """Two masks of the truth under one found mask: the better fit is found, the other is not."""
    ranks = match_ranks(np.array([[0.6, 0.7]]))

    assert ranks[0].tolist() == [NEVER, 0]
    assert (ranks[IOU_THRESHOLDS > 0.7] == NEVER).all()


def test_the_second_mask_takes_what_is_left():
    """A worse-ranked duplicate finds the next thing that it overlaps enough."""
    ranks = match_ranks(np.array([[0.6, 0.7], [0.55, 0.9]]))

    assert ranks[0].tolist() == [1, 0]


def test_nothing_found_and_nothing_to_find():
    """No masks find nothing; no truth of a size has no recall."""
    counter = RecallCounter()
    counter.add(np.zeros((0, 1)), np.array([50.0]))

    assert counter.average_recall("all", 100) == 0
    assert counter.average_recall("large", 100) is None


def test_of_equals_the_last_is_found():
    """As in COCOeval, whose loop goes on to an equal overlap."""
    assert match_ranks(np.array([[0.7, 0.7]]))[0].tolist() == [NEVER, 0]


def test_a_size_on_a_bound_counts_on_both_sides():
    """As in COCOeval: 32 x 32 pixels are small and medium, 96 x 96 medium and large."""
    areas = np.array([1023.0, 1024.0, 1025.0, 9216.0, 9217.0])

    assert in_range(areas, "small").tolist() == [True, True, False, False, False]
    assert in_range(areas, "medium").tolist() == [False, True, True, True, False]
    assert in_range(areas, "large").tolist() == [False, False, False, True, True]
