"""The clean-up of masks in a window, held to that in the whole image."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sam_engine.amg import mask_batch
from sam_engine.amg.found_mask import FoundMask
from sam_engine.amg.mask_batch import clean_up_masks
from sam_engine.ops.rle import bbox_of, decode_runs, mask_to_runs


def rough_mask(size: tuple[int, int], seed: int) -> NDArray[np.bool_]:
    """Return a few boxes with crumbs, holes and torn edges; some touch the edges, some masks are empty."""
    random = np.random.default_rng(seed)
    mask = np.zeros(size, dtype=bool)
    for _ in range(random.integers(0, 4)):
        y, x = (int(random.integers(-5, side)) for side in size)
        h, w = (int(random.integers(1, side)) for side in size)
        mask[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)] = True
    return mask ^ (mask & (random.random(size) < 0.15)) ^ (~mask & (random.random(size) < 0.01) & mask.any())


@pytest.mark.parametrize("size", [(40, 61), (7, 90), (90, 7), (25, 25)])
@pytest.mark.parametrize("min_area", [1, 3, 20, 200])
@pytest.mark.parametrize("drop_small", [False, True])
def test_cleaning_in_a_window_is_cleaning_in_the_image(
    size: tuple[int, int], min_area: int, drop_small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holes, islands and small masks at the edges and within come out the same, in the same order."""
    masks = []
    for seed in range(40):
        runs = mask_to_runs(rough_mask(size, seed))
        left, top, width, height = bbox_of(runs, size)
        masks.append(
            FoundMask(
                runs=runs,
                box_xyxy=(left, top, left + width, top + height),
                predicted_iou=0.9,
                stability_score=0.95,
                point_coords=((0.5, 0.5),),
                crop_box=(0, 0, size[1], size[0]),
            )
        )

    def clean() -> list[NDArray[np.bool_]]:
        settings = {"min_area": min_area, "drop_small": drop_small, "nms_thresh": 1.0}
        cleaned = clean_up_masks(masks, size, **settings)  # type: ignore[arg-type]
        return [decode_runs(mask.runs, size) for mask in cleaned]

    in_window = clean()
    monkeypatch.setattr(mask_batch, "_window_of", lambda *_: (0, 0, *size))
    in_image = clean()

    assert len(in_window) == len(in_image) > 0
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(in_window, in_image, strict=True))
