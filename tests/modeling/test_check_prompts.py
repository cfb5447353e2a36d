"""Prompts that do not fit are refused wherever they are given."""

from typing import Any

import numpy as np
import pytest
import torch

from sam_engine.build_sam import build_architecture
from sam_engine.modeling.sam import Sam
from sam_engine.predictor import SamPredictor
from tests.helpers.reference_models import SMALL

COORDS, LABELS, BOXES = torch.ones(3, 2, 2), torch.ones(3, 2), torch.tensor([[1.0, 2, 30, 40]] * 3)
MASKS = torch.zeros(3, 1, 64, 64)
MALFORMED: dict[str, dict[str, Any]] = {
    "points without labels": {"point_coords": COORDS},
    "labels without points": {"point_labels": LABELS},
    "labels of fewer prompts": {"point_coords": COORDS, "point_labels": LABELS[:1]},
    "labels of fewer points": {"point_coords": COORDS, "point_labels": LABELS[:, :1]},
    "labels with an axis more": {"point_coords": COORDS, "point_labels": LABELS[..., None]},
    "points of one prompt, without its axis": {"point_coords": COORDS[0], "point_labels": LABELS[0]},
    "points in space": {"point_coords": torch.ones(3, 2, 3), "point_labels": LABELS},
    "points that are not finite": {"point_coords": COORDS / 0, "point_labels": LABELS},
    "three boxes and a point": {"point_coords": COORDS[:1], "point_labels": LABELS[:1], "boxes": BOXES},
    "a box and three points": {"point_coords": COORDS, "point_labels": LABELS, "boxes": BOXES[:1]},
    "a box without its axis": {"boxes": BOXES[0]},
    "boxes as corners": {"boxes": BOXES.view(3, 2, 2)},
    "boxes that are XYWH": {"boxes": torch.tensor([[50.0, 50, 20, 20]])},
    "boxes that are not finite": {"boxes": BOXES * torch.nan},
    "a mask as (H, W)": {"boxes": BOXES, "mask_input": MASKS[0, 0]},
    "a mask as (1, H, W)": {"boxes": BOXES, "mask_input": MASKS[0]},
    "masks with several channels": {"boxes": BOXES, "mask_input": MASKS.expand(3, 3, 64, 64)},
    "masks of another side": {"boxes": BOXES, "mask_input": torch.zeros(3, 1, 256, 256)},
    "masks of fewer prompts": {"boxes": BOXES, "mask_input": MASKS[:2]},
    "masks that are not finite": {"boxes": BOXES, "mask_input": MASKS - torch.inf},
}
"""As `Sam.decode` and `SamPredictor.predict_torch` take them."""
MALFORMED_ALONE: dict[str, dict[str, Any]] = {
    "points without labels": {"point_coords": [[5, 5]]},
    "labels without points": {"point_labels": [1]},
    "a point without its axis": {"point_coords": [5, 5], "point_labels": [1]},
    "points in space": {"point_coords": [[5, 5, 5]], "point_labels": [1]},
    "a label without its axis": {"point_coords": [[5, 5]], "point_labels": 1},
    "a label too many": {"point_coords": [[5, 5]], "point_labels": [1, 0]},
    "points with the axis of prompts": {"point_coords": [[[5, 5]]], "point_labels": [[1]]},
    "a point that is not finite": {"point_coords": [[np.nan, 5]], "point_labels": [1]},
    "several boxes and a point": {"box": np.zeros((2, 4)), "point_coords": [[5, 5]], "point_labels": [1]},
    "several boxes and points of another number": {
        "box": np.zeros((2, 4)),
        "point_coords": np.ones((3, 1, 2)),
        "point_labels": np.ones((3, 1)),
    },
    "several boxes as corners": {"box": np.zeros((2, 2, 2))},
    "half a box": {"box": np.zeros(2)},
    "a box that is XYWH": {"box": np.array([50, 50, 20, 20])},
    "a mask as (H, W)": {"mask_input": np.zeros((64, 64))},
    "a mask with the axis of prompts": {"mask_input": np.zeros((1, 1, 64, 64))},
    "a mask of another side": {"mask_input": np.zeros((1, 256, 256))},
    "a mask that is not finite": {"mask_input": np.full((1, 64, 64), np.nan)},
}
"""As `SamPredictor.predict` takes them."""


@pytest.fixture(scope="module")
def sam() -> Sam:
    return build_architecture(SMALL)


@pytest.fixture(scope="module")
def predictor(sam: Sam) -> SamPredictor:
    predictor = SamPredictor(sam)
    predictor.set_image(np.zeros((100, 200, 3), dtype=np.uint8))
    return predictor


@torch.no_grad()
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_prompts_are_refused(sam: Sam, predictor: SamPredictor, case: str) -> None:
    """By the model with and without gradients, by the predictor, and in the batch interface."""
    made = MALFORMED[case]
    named = {"point_coords": None, "point_labels": None} | made
    record = {("mask_inputs" if key == "mask_input" else key): value for key, value in made.items()}
    record |= {"image": torch.zeros(3, 128, 256), "original_size": (100, 200)}

    with pytest.raises(ValueError, match=r"point|box|mask"):
        sam.decode(predictor._embedding(), **made)
    with torch.enable_grad(), pytest.raises(ValueError, match=r"point|box|mask"):
        sam.decode(predictor._embedding(), **made)
    with pytest.raises(ValueError, match=r"point|box|mask"):
        predictor.predict_torch(**named)
    with pytest.raises(ValueError, match=r"point|box|mask"):
        sam([record], multimask_output=True)


@pytest.mark.parametrize("case", MALFORMED_ALONE)
def test_a_malformed_prompt_is_refused(predictor: SamPredictor, case: str) -> None:
    """By `predict`, as array and as list."""
    with pytest.raises(ValueError, match=r"point|box|mask"):
        predictor.predict(**MALFORMED_ALONE[case])


@torch.no_grad()
def test_prompts_that_fit_are_answered(predictor: SamPredictor) -> None:
    """Three of each together, one mask for all three, boxes without extent, and no points at all."""
    every = {"point_coords": COORDS, "point_labels": LABELS, "boxes": BOXES, "mask_input": MASKS}

    assert len(predictor.predict_torch(**every)[0]) == 3
    assert len(predictor.predict_torch(**{**every, "mask_input": MASKS[:1]})[0]) == 3
    assert predictor.predict(box=[5, 5, 5, 5])[0].shape == (3, 100, 200)
    assert predictor.predict(np.zeros((0, 2)), np.zeros(0))[0].shape == (3, 100, 200)


def test_reversed_arrays_are_prompts(predictor: SamPredictor) -> None:
    """Views with negative strides, as (y, x) turned into (x, y) are, which torch does not take."""
    points, labels, box = np.array([[40, 30], [9, 8]]), np.array([1, 0]), np.array([90, 80, 10, 20])
    mask = np.random.default_rng(0).normal(size=(1, 64, 64))
    reversed_views = points[:, ::-1], labels[::-1], box[::-1], mask[:, :, ::-1]
    found = predictor.predict(*reversed_views, return_logits=True)

    for x, y in zip(found, predictor.predict(*map(np.copy, reversed_views), return_logits=True), strict=True):
        assert np.array_equal(x, y)


@pytest.mark.parametrize("shape", [(4, 3, 128, 256), (3, 128, 256), (1, 4, 128, 256), (1, 3, 128, 200)])
def test_images_that_do_not_fit_are_refused(predictor: SamPredictor, shape: tuple[int, ...]) -> None:
    """One image of three channels, its longer side the model's."""
    with pytest.raises(ValueError, match=r"wanted is \(1, 3, H, W\)"):
        predictor.set_torch_image(torch.zeros(shape), (100, 200))


@pytest.mark.parametrize("shape", [(128, 256), (1, 3, 128, 256), (4, 128, 256), (3, 128, 300)])
def test_images_of_a_batch_that_do_not_fit_are_refused(sam: Sam, shape: tuple[int, ...]) -> None:
    """Larger ones would be cut off."""
    with pytest.raises(ValueError, match=r"wanted is \(3, H, W\)"):
        sam([{"image": torch.zeros(shape), "original_size": (100, 200)}], multimask_output=True)


def test_features_of_several_images_are_refused(sam: Sam) -> None:
    """Prompts are on one image."""
    predictor = SamPredictor(sam)
    predictor.set_image(np.zeros((100, 200, 3), dtype=np.uint8))
    predictor.features = torch.zeros(4, 64, 16, 16)

    with pytest.raises(ValueError, match="one image"):
        predictor.predict(box=[5, 5, 9, 9])
