"""Regions of even colour."""

import numpy as np
import pytest

from sam_engine.training.data.regions import MIN_FRACTION, colour_regions


def scene() -> tuple[np.ndarray, list[np.ndarray]]:
    """Sky over ground with a disc on it, all slightly noisy, and the three masks."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:240, :320]
    disc = (x - 200) ** 2 + (y - 160) ** 2 < 40**2
    sky = y < 90
    image = np.where(sky[..., None], (90, 140, 220), (60, 120, 40))
    image[disc] = (220, 60, 50)
    return np.clip(image + rng.integers(-4, 5, image.shape), 0, 255).astype(np.uint8), [
        sky,
        ~sky & ~disc,
        disc,
    ]


def test_even_parts_become_masks():
    """Sky, ground and disc are found, each once, along their edges."""
    image, parts = scene()

    regions = colour_regions(image)

    assert len(regions) == 3
    for part in parts:
        best = max((region & part).sum() / (region | part).sum() for region in regions)
        assert best > 0.95


def test_regions_are_disjoint():
    """No pixel belongs to two regions, apart from the filled holes and closed gaps along edges."""
    image, _ = scene()

    shared = np.sum(colour_regions(image), axis=0) > 1

    assert shared.mean() < 0.01


def test_specks_are_left_out():
    """A part below the least area is no region."""
    image = np.full((200, 200, 3), 200, np.uint8)
    side = int((MIN_FRACTION * 0.5) ** 0.5 * 200)
    image[50 : 50 + side, 50 : 50 + side] = 20

    regions = colour_regions(image)

    assert regions == []  # and the rest covers more than MAX_FRACTION


def test_threads_are_left_out():
    """A frame of thin lines, large enough in all, has no part left when it is smoothed, and is no region."""
    image = np.full((200, 200, 3), 30, np.uint8)
    image[20:180, 20:180] = 240
    image[23:177, 23:177] = 30

    regions = colour_regions(image)

    assert regions
    assert all(region.mean() > MIN_FRACTION for region in regions)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (300, 2)])
def test_extreme_shapes_do_not_fail(shape: tuple[int, int]):
    """Images of a few pixels give masks of their size, or none."""
    regions = colour_regions(np.zeros((*shape, 3), np.uint8))

    assert all(region.shape == shape for region in regions)
