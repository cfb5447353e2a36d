"""A quick mask generator's settings and image, for tests."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SETTINGS: dict[str, Any] = {
    "points_per_side": 4,
    "stability_score_thresh": 0.85,
    "output_mode": "coco_rle",
}


def blank(height: int, width: int) -> NDArray[np.uint8]:
    return np.zeros((height, width, 3), dtype=np.uint8)
