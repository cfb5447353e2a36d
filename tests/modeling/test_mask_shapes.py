"""Numbers of a mask's shape, and what they do to its predicted IoU."""

import pytest
import torch
from torch import Tensor

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import Architecture
from sam_engine.checkpoints.resolve import fitting_state_dict
from sam_engine.errors import CheckpointError
from sam_engine.modeling.mask_decoder import MAX_FALL, MAX_RAISE
from sam_engine.modeling.mask_shapes import NUM_SHAPES, count_masks, mask_overlaps, mask_shapes
from sam_engine.modeling.prompt_maps import PromptPlaces
from sam_engine.modeling.sam import Sam
from tests.helpers.reference_models import SMALL_TINY, make_reduced_tiny, randomise

CLICK = PromptPlaces(coords=torch.tensor([[[0.5, 0.5], [0.0, 0.0]]]), labels=torch.tensor([[1, -1]]))

NAMES = ("log_area", "root", "width", "height", "filled", "outline", "sure", "very_sure", "mean")
NAMES += ("left", "top", "right", "bottom", "dx", "dy")


def shapes_of(logits: Tensor, places: PromptPlaces = CLICK) -> dict[str, float]:
    """Return the numbers of one mask (h, w) by name."""
    [[numbers]] = mask_shapes(count_masks(logits[None, None]), places)
    assert len(numbers) == NUM_SHAPES
    return dict(zip(NAMES, numbers.tolist(), strict=True))


def test_numbers_of_a_rectangle() -> None:
    """4 x 2 of 8 x 8 pixels, half of them sure."""
    logits = torch.full((8, 8), -9.0)
    logits[1:3, 2:6] = 0.5
    logits[1, 2:6] = 4.0
    numbers = shapes_of(logits)

    assert numbers["log_area"] == pytest.approx(torch.tensor(8 / 64 + 1e-4).log().item())
    assert numbers["root"] == pytest.approx((8 / 64) ** 0.5)
    assert (numbers["width"], numbers["height"], numbers["filled"]) == pytest.approx((0.5, 0.25, 1))
    assert numbers["outline"] == pytest.approx(12 / 8**0.5)
    assert (numbers["sure"], numbers["very_sure"]) == (0.5, 0.5)
    assert numbers["mean"] == pytest.approx((4 * 4 + 4 * 0.5) / (8 * 8))
    assert [numbers[side] for side in ("left", "top", "right", "bottom")] == [0.25, 0.125, 0.25, 0.625]
    assert (numbers["dx"], numbers["dy"]) == pytest.approx((0, 0.25 / 0.3))


def test_the_middle_of_a_box_counts_as_a_click() -> None:
    """Corners are averaged; background clicks and padding are not."""
    places = PromptPlaces(
        coords=torch.tensor([[[0.0, 0.2], [0.0, 0.2], [1.0, 0.8]]]), labels=torch.tensor([[0, 2, 3]])
    )
    logits = torch.full((8, 8), -9.0)
    logits[1:3, 2:6] = 0.5

    assert shapes_of(logits, places) == pytest.approx(shapes_of(logits))


def test_background_and_padding_do_not_count() -> None:
    """Whatever the logits that are no foreground, down to the 0 of those that were left out."""
    logits = torch.randn(8, 8)
    cleared = logits.clamp(min=0)

    assert shapes_of(logits) == shapes_of(cleared)


def test_empty_masks_have_numbers() -> None:
    """Finite ones, so that a model may learn that they are worth nothing."""
    assert torch.isfinite(mask_shapes(count_masks(torch.full((1, 3, 8, 8), -1.0)), CLICK)).all()


def test_overlaps_are_of_every_two() -> None:
    """Two halves, the whole, and nothing."""
    logits = torch.full((1, 4, 2, 4), -1.0)
    logits[0, 0, :, :2] = logits[0, 1, :, 2:] = logits[0, 2] = 1
    expected = [[1, 0, 0.5, 0], [0, 1, 0.5, 0], [0.5, 0.5, 1, 0], [0, 0, 0, 0]]

    assert mask_overlaps(count_masks(logits))[0].tolist() == expected


@torch.no_grad()
def decode(sam: Sam, iou_thresh: float | None = None) -> tuple[Tensor, Tensor]:
    """Answer a grid of clicks on noise."""
    image = torch.randint(256, (64, 64, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    [embedding] = sam.encode([image.numpy()])
    side = torch.arange(2.0, 64, 4)
    points = torch.cartesian_prod(side, side)[:, None]
    return sam.decode(
        embedding, point_coords=points, point_labels=torch.ones(points.shape[:2]), iou_thresh=iou_thresh
    )


def make_random(architecture: Architecture = SMALL_TINY) -> Sam:
    """Return a model of noise."""
    sam = build_architecture(architecture)
    randomise(sam, seed=0)
    return sam


def without_shapes(sam: Sam) -> Sam:
    """Let shapes change nothing."""
    for head in sam.mask_decoder.shape_heads:
        for parameter in head.parameters():
            torch.nn.init.zeros_(parameter)
    return sam


def test_shapes_change_scores_within_limits() -> None:
    """And no mask."""
    logits, scores = decode(make_random())
    plain_logits, plain_scores = decode(without_shapes(make_random()))
    added = scores - plain_scores

    assert torch.equal(logits, plain_logits)
    assert 0.05 < added.max() <= MAX_RAISE + 1e-6
    assert 0.2 < -added.min() <= MAX_FALL + 1e-6


def test_masks_whose_shape_lifts_them_over_the_threshold_are_made() -> None:
    """Which prompts are upscaled is decided before their masks are there: none that passes is missed."""
    _, plain = decode(without_shapes(make_random()))
    thresh = float(plain.quantile(0.7))
    sam = make_random()
    for head in sam.mask_decoder.shape_heads:
        torch.nn.init.normal_(head.get_parameter("layers.1.weight"), std=0.01)
        torch.nn.init.constant_(head.get_parameter("layers.1.bias"), 0.5)
    full_logits, full = decode(sam)
    logits, scores = decode(sam, thresh)
    passes = scores > thresh

    assert (passes & (plain <= thresh)).any()
    assert torch.equal(passes, full > thresh)
    torch.testing.assert_close(logits[passes], full_logits[passes])
    torch.testing.assert_close(scores[passes], full[passes])


def test_weights_from_before_shapes_are_as_they_were() -> None:
    """They are loaded with heads of no effect; other parts may not be missing."""
    sam = without_shapes(make_random())
    state = {name: value for name, value in sam.state_dict().items() if "shape_heads" not in name}
    new = make_reduced_tiny(image_size=64)
    new.load_state_dict(fitting_state_dict(state, new, "old.safetensors"))
    for before, after in zip(decode(sam), decode(new), strict=True):
        torch.testing.assert_close(before, after)

    del state["mask_decoder.iou_token.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing: mask_decoder\.iou_token\.weight"):
        fitting_state_dict(state, new, "old.safetensors")


def test_heads_of_older_weights_can_learn() -> None:
    """Their first layers are not zero, or nothing would ever come through."""
    heads = make_reduced_tiny().mask_decoder.shape_heads
    numbers = torch.randn(5, 1 + NUM_SHAPES + 3)
    for head in heads:
        assert not head(numbers).any()
        head(numbers).sum().backward()
        assert head.get_parameter("layers.1.weight").grad.abs().max() > 0
