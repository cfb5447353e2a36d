"""Point grids against the values of SA-1B."""

import numpy as np
import pytest

from sam_engine.errors import ConfigError
from sam_engine.ops.points import build_all_layer_point_grids, build_grid, build_layer_grids, build_point_grid


def test_x_runs_fastest():
    """The grid goes along the first row before the second."""
    assert build_point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_default_grid_starts_as_published():
    """32 points per side: the first two are 1/64 and 3/64."""
    assert build_point_grid(32)[:2].tolist() == [[0.015625, 0.015625], [0.046875, 0.015625]]


@pytest.mark.parametrize(
    ("factor", "layers", "sides"), [(2, 2, [32, 16, 8]), (3, 3, [32, 10, 3, 1]), (1, 1, [32, 32])]
)
def test_layers_round_down(factor, layers, sides):
    """Points per side are divided for each layer and truncated."""
    grids = build_all_layer_point_grids(32, layers, factor)

    assert [len(grid) for grid in grids] == [side**2 for side in sides]


def test_sa1b_points_lie_on_the_grids():
    """In sa_226381 a point of crop x0=436, width 692 is at x=825.25; one of the whole image at 27/64."""
    assert 436 + 692 * build_point_grid(8)[:, 0].max() > 825.25
    assert np.any(436 + 692 * build_point_grid(8)[:, 0] == 825.25)
    assert np.any(build_point_grid(32)[:, 0] == 27 / 64)


def test_a_layer_without_points_is_refused():
    """The message names the layer instead of a division by zero."""
    with pytest.raises(ConfigError, match="no point in layer 2 of 3"):
        build_all_layer_point_grids(4, 3, 3)


def test_a_grid_may_have_unequal_sides():
    """Three points from left to right, one from top to bottom; layers divide either side."""
    assert build_grid(3, 1).tolist() == [[1 / 6, 0.5], [0.5, 0.5], [5 / 6, 0.5]]
    assert [len(grid) for grid in build_layer_grids((6, 2), 1, 2)] == [12, 3]


def test_a_short_side_without_points_is_refused():
    """The longer side does not hide it."""
    with pytest.raises(ConfigError, match=r"a grid of 8 x 2 divided by .*=2 .* no point in layer 2 of 2"):
        build_layer_grids((8, 2), 2, 2)
