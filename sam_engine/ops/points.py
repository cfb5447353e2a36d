"""Grids of point prompts, as fractions of the image. Points are (x, y)."""

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import ConfigError


def build_point_grid(n_per_side: int) -> NDArray[np.float64]:
    """Return the centres of ``n_per_side**2`` equal cells, (n**2, 2) in (0, 1); x runs fastest."""
    return build_grid(n_per_side, n_per_side)


def build_grid(n_per_row: int, n_per_column: int) -> NDArray[np.float64]:
    """Return the centres of so many equal cells, (columns * rows, 2) in (0, 1); x runs fastest."""
    y, x = np.meshgrid(_centres(n_per_column), _centres(n_per_row), indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def _centres(count: int) -> NDArray[np.float64]:
    offset = 1 / (2 * count)
    return np.linspace(offset, 1 - offset, count)


def build_all_layer_point_grids(
    n_per_side: int, n_layers: int, scale_per_layer: int
) -> list[NDArray[np.float64]]:
    """Return one grid for the whole image and one for the crops of each layer.

    Args:
        n_per_side: Points along one side on the whole image.
        n_layers: Layers of crops.
        scale_per_layer: Layer k has ``n_per_side / scale_per_layer**k`` points along one side, rounded down.

    Raises:
        ConfigError: A layer would be left without points.
    """
    return build_layer_grids((n_per_side, n_per_side), n_layers, scale_per_layer)


def build_layer_grids(
    grid: tuple[int, int], n_layers: int, scale_per_layer: int
) -> list[NDArray[np.float64]]:
    """Do the same for a grid of unequal sides: points from left to right, and from top to bottom."""
    sides = [
        (int(grid[0] / scale_per_layer**layer), int(grid[1] / scale_per_layer**layer))
        for layer in range(n_layers + 1)
    ]
    smallest = [min(pair) for pair in sides]
    if min(smallest) < 1:
        given = f"points_per_side={grid[0]}" if grid[0] == grid[1] else f"a grid of {grid[0]} x {grid[1]}"
        raise ConfigError(
            f"{given} divided by crop_n_points_downscale_factor={scale_per_layer} for "
            f"each layer leaves no point in layer {smallest.index(0)} of {n_layers}; use fewer layers "
            "or more points"
        )
    return [build_grid(*pair) for pair in sides]
