"""Grids of point prompts, as fractions of the image. Points are (x, y)."""

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import ConfigError


def build_point_grid(n_per_side: int) -> NDArray[np.float64]:
    """Return the centres of ``n_per_side**2`` equal cells, (n**2, 2) in (0, 1); x runs fastest."""
    offset = 1 / (2 * n_per_side)
    centres = np.linspace(offset, 1 - offset, n_per_side)
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2)


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
    sides = [int(n_per_side / scale_per_layer**layer) for layer in range(n_layers + 1)]
    if min(sides) < 1:
        raise ConfigError(
            f"points_per_side={n_per_side} divided by crop_n_points_downscale_factor={scale_per_layer} for "
            f"each layer leaves no point in layer {sides.index(0)} of {n_layers}; use fewer layers "
            "or more points"
        )
    return [build_point_grid(side) for side in sides]
