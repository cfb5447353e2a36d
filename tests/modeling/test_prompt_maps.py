"""Prompt maps say where pixels lie relative to clicks and boxes."""

import math

import pytest
import torch
from torch import Tensor

from sam_engine.modeling.prompt_maps import MIN_DISTANCE, NUM_MAPS, PromptPlaces, pixel_centres, prompt_maps
from tests.helpers.fakes import make_reduced_tiny


def make_maps(
    coords: list[tuple[float, float]], labels: list[int], height: int = 8, width: int = 8
) -> Tensor:
    """Return the maps (16, h, w) of one prompt."""
    places = PromptPlaces(
        coords=torch.tensor([coords], dtype=torch.float64).reshape(1, -1, 2),
        labels=torch.tensor([labels], dtype=torch.float64),
    )
    x, y = pixel_centres(width, places.coords), pixel_centres(height, places.coords)
    return prompt_maps(places, x, y)[0]


def test_a_prompt_that_is_nowhere_has_only_the_constant() -> None:
    """No point, and a point that is none, are the same."""
    for coords, labels in ([], []), ([(0.3, 0.3)], [-1]):
        maps = make_maps(coords, labels)

        assert (maps[0] == 1).all()
        assert not maps[1:].any()


@pytest.mark.parametrize(
    "labels", [[], [-1], [1], [0], [-1, 1], [1, -1], [0, 1, 1], [1, 0, -1, 1], [2, 3], [-1, 1, 2, 3]]
)
def test_a_device_makes_all_maps_and_the_same(labels: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not look which are needed, because to look would be to wait."""
    coords = [(0.1 + 0.2 * i, 0.9 - 0.3 * i) for i in range(len(labels))]
    expected = make_maps(coords, labels)
    monkeypatch.setattr("sam_engine.modeling.prompt_maps.is_queued", lambda _: True)

    assert torch.equal(make_maps(coords, labels), expected)


@pytest.mark.parametrize("labels", [[-1], [1], [0], [1, -1], [0, 1, 1], [1, 0, -1, 1], [2, 3], [0, 1, 2, 3]])
def test_a_graph_makes_the_same_maps(labels: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without loops over points, and without looking."""
    coords = [(0.1 + 0.2 * i, 0.9 - 0.3 * i) for i in range(len(labels))]
    expected = make_maps(coords, labels, width=5)
    monkeypatch.setattr("torch.onnx.is_in_onnx_export", lambda: True)

    assert torch.equal(make_maps(coords, labels, width=5), expected)


def test_distance_to_a_click() -> None:
    """From the pixel's centre, in sides of the input; offsets have the sign of x and y."""
    maps = make_maps([(0.25 + 1 / 16, 1 / 16)], [1])

    assert maps[2, 0, 2] == pytest.approx(0)
    assert maps[1, 0, 2] == pytest.approx(math.log(MIN_DISTANCE) + 2)
    assert maps[2, 4, 2] == pytest.approx(0.5 * 4)
    assert maps[3:7, 1, 0].tolist() == pytest.approx([-1, 0.5, 1, 0.5])
    assert not maps[7:].any()


def test_the_nearest_click_counts() -> None:
    """Of two clicks, each pixel sees the nearer one, in either order."""
    left, right = make_maps([(0.25, 0.5)], [1]), make_maps([(0.75, 0.5)], [1])
    for coords in ([(0.25, 0.5), (0.75, 0.5)], [(0.75, 0.5), (0.25, 0.5)]):
        both = make_maps(coords, [1, 1])

        assert torch.equal(both[:, :, :4], left[:, :, :4])
        assert torch.equal(both[:, :, 4:], right[:, :, 4:])


def test_background_clicks_have_maps_of_their_own() -> None:
    """A foreground click changes nothing of them."""
    alone, beside = make_maps([(0.25, 0.5)], [0]), make_maps([(0.25, 0.5), (0.9, 0.1)], [0, 1])

    assert not alone[1:7].any()
    assert alone[8].argmax() == alone[7].argmin()
    assert torch.equal(alone[7:], beside[7:])


def test_coordinates_within_a_box() -> None:
    """-1 to 1 from side to side, with the logarithm of the largest changing its sign there."""
    maps = make_maps([(0.25, 0.0), (0.75, 0.5)], [2, 3])
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:4, 2:6] = True

    assert maps[11, 0, :].tolist() == pytest.approx([-1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75])
    assert maps[12, :5, 0].tolist() == pytest.approx([-0.75, -0.25, 0.25, 0.75, 1.25])
    assert torch.equal(maps[9] < 0, inside)
    assert torch.equal(maps[15] > 0.5, inside)
    assert not maps[1:9].any()


def test_prompts_do_not_see_each_other() -> None:
    """A click beside a box in one batch gives the maps of both alone."""
    places = PromptPlaces(
        coords=torch.tensor([[[0.2, 0.3], [0, 0]], [[0.1, 0.2], [0.7, 0.9]]], dtype=torch.float64),
        labels=torch.tensor([[1, -1], [2, 3]], dtype=torch.float64),
    )
    x = pixel_centres(8, places.coords)
    maps = prompt_maps(places, x, x)

    assert torch.equal(maps[0], make_maps([(0.2, 0.3)], [1]))
    assert torch.equal(maps[1], make_maps([(0.1, 0.2), (0.7, 0.9)], [2, 3]))


def test_places_are_those_of_points_and_corners() -> None:
    """In sides of the input, pixel centres at half, in float32 whatever the points are given in."""
    encoder = make_reduced_tiny().prompt_encoder
    points = torch.tensor([[[63.5, -0.5]]], dtype=torch.float64), torch.tensor([[1]])
    places = encoder.places(points, torch.tensor([[31.5, 63.5, 127.5, 95.5]]))

    assert places.coords.tolist() == [[[0.5, 0], [0.25, 0.5], [1, 0.75]]]
    assert places.labels.tolist() == [[1, 2, 3]]
    assert places.coords.dtype == torch.float32


def test_untrained_maps_have_no_effect() -> None:
    """Weights of before the maps give the same masks once zeros are added to them."""
    decoder = make_reduced_tiny().mask_decoder
    tokens = torch.randn(2, 4, 32)
    places = PromptPlaces(coords=torch.rand(2, 1, 2), labels=torch.ones(2, 1))
    x = pixel_centres(8, places.coords)

    assert decoder.map_to_image.in_features == NUM_MAPS
    assert not decoder.mask_prior(tokens, slice(None), places, x, x).any()


def test_decoders_with_maps_need_places() -> None:
    """They cannot be left out unnoticed."""
    with pytest.raises(ValueError, match="needs the places of its prompts"):
        make_reduced_tiny().mask_decoder.image_prior(None, 8, 8)
