"""Our mask generator and that of ``segment_anything`` 1.0 find the same, driven by the same model.

The model is a drawing: logits are formulas of the prompt, so that every kind of mask occurs. Both generators
see the same numbers; records must agree in order and in every value.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.automatic_mask_generator import SamAutomaticMaskGenerator
from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import ARCHITECTURES
from sam_engine.modeling.segmenter import ImageEmbedding, Segmenter
from sam_engine.ops.resize import ResizeLongestSide
from tests.helpers.reference_models import SMALL, randomise
from tools.reference import reference_generator

pytestmark = pytest.mark.reference

KEYS = ["segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"]


class DrawnSegmenter:
    """A `Segmenter` that draws: discs, stripes, lines, edges, holes, islands, nothing and everything.

    Which figure a prompt gets follows from its place; so does its predicted IoU, which takes few values, so
    that there are ties, 0.88 itself among them.
    """

    mask_threshold = 0.0

    def __init__(self, image_size: int = 256, *, ties: bool = True) -> None:
        self.image_size = image_size
        self.ties = ties
        self.device = torch.device("cpu")
        self.encoded: list[tuple[int, ...]] = []

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        self.encoded += [image.shape for image in images]
        transform = ResizeLongestSide(self.image_size)
        return [
            ImageEmbedding(
                features=torch.full((1, 1, 1, 1), float(image.mean())),
                input_size=transform.target_size(image.shape[:2]),
                original_size=image.shape[:2],
            )
            for image in images
        ]

    def decode(
        self,
        embedding: ImageEmbedding,
        *,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        iou_thresh: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        assert point_coords is not None
        assert point_labels is not None
        assert (point_labels == 1).all()
        centres = (torch.arange(self.image_size // 4) + 0.5) * 4
        drawings, scores = [], []
        for x, y in point_coords[:, 0].float().tolist():
            seed = int(x) * 7 + int(y) * 13
            figures = [self.figure(seed + 5 * i, centres - x, centres[:, None] - y) for i in range(3)]
            drawings.append(torch.stack(figures))
            levels = [0.88, 0.9, 0.9, 0.93, 0.95, 0.99, 1.02, 0.5]
            own = 0.0 if self.ties else 0.05 * math.sin(x + 300 * y)
            scores.append([levels[(seed // 3 + i) % len(levels)] + own * (i + 1) for i in range(3)])
        return torch.stack(drawings), torch.tensor(scores)

    def figure(self, seed: int, x: Tensor, y: Tensor) -> Tensor:
        """Return (4h, 4w) logits, given the distances from the prompt along either axis."""
        radius = self.image_size * (0.06 + 0.02 * (seed % 9))
        distance = torch.sqrt(x * x + y * y)
        figures = [
            lambda: radius - distance,
            lambda: (radius - distance) / 20,  # unstable
            lambda: 10 * torch.sin(x / 9) + 0 * y,  # stripes down the image
            lambda: 8 - 4 * y.abs() + 0 * x,  # a line of some pixels
            lambda: 0.4 - y.abs() / 10 + 0 * x,  # thinner than a low-resolution pixel
            lambda: torch.full_like(distance, -5.0),
            lambda: torch.full_like(distance, 5.0),
            lambda: radius / 2 - x + 0 * y,  # half of the image
            lambda: (radius - torch.maximum(x.abs(), y.abs())) * 2,
            lambda: (radius - distance).clamp(-6, 6) - dots().clamp(min=4.5) + 4.5,  # holes
            lambda: (radius / 2 - distance).clamp(-5, 5) + dots().clamp(min=4) - 4,  # islands
            lambda: (3 - distance) * 4,  # some pixels
        ]

        def dots() -> Tensor:
            return torch.cos(x * 0.9) * torch.cos(y * 0.8) * 6

        return figures[seed % len(figures)]()


def noise_image(size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)


def assert_same_records(ours: list[dict[str, Any]], reference: list[dict[str, Any]]) -> None:
    """Compare by value: the reference's boxes are ints or floats depending on the batches."""
    assert len(ours) == len(reference)
    for mine, theirs in zip(ours, reference, strict=True):
        assert list(mine) == list(theirs) == KEYS
        if isinstance(theirs["segmentation"], dict):
            assert mine["segmentation"] == theirs["segmentation"]
        else:
            assert mine["segmentation"].dtype == theirs["segmentation"].dtype
            assert np.array_equal(mine["segmentation"], theirs["segmentation"])
        if math.isnan(theirs["stability_score"]):  # 0/0 in the reference; defined as 0 here
            theirs["stability_score"] = 0.0
        for key in KEYS[1:]:
            assert mine[key] == theirs[key]


def check(package: ModuleType, size: tuple[int, int], model: Segmenter | None = None, **settings: Any) -> int:
    """Run both on the same image and return the number of records."""
    settings = {"points_per_side": 6, "output_mode": "coco_rle"} | settings
    model, image = model or DrawnSegmenter(), noise_image(size)

    ours = SamAutomaticMaskGenerator(model, **settings).generate(image)

    assert_same_records(ours, reference_generator(package, model, **settings).generate(image))
    return len(ours)


SIZES = [(240, 320), (320, 240), (256, 256), (97, 131), (300, 40), (31, 400), (360, 300)]
"""Up- and downscaled, unchanged, not divisible by anything, tall and wide, as (H, W)."""


@pytest.mark.parametrize("size", SIZES)
def test_default_settings(segment_anything: ModuleType, size: tuple[int, int]) -> None:
    """Images of any shape."""
    assert check(segment_anything, size) > 3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("layers", "factor"), [(1, 1), (2, 2)])
def test_crops(segment_anything: ModuleType, size: tuple[int, int], layers: int, factor: int) -> None:
    """One and two layers of crops; crop edges, and the NMS between crops."""
    settings = {"crop_n_layers": layers, "crop_n_points_downscale_factor": factor}

    assert check(segment_anything, size, points_per_side=4, **settings) > 3


@pytest.mark.parametrize("mode", ["binary_mask", "uncompressed_rle", "coco_rle"])
def test_output_modes(segment_anything: ModuleType, mode: str) -> None:
    """Arrays, runs and COCO's text."""
    assert check(segment_anything, (240, 320), output_mode=mode) > 3


@pytest.mark.parametrize("batch", [1, 16, 64])
def test_points_per_batch(segment_anything: ModuleType, batch: int) -> None:
    """Batches with and without a remainder, and batches that find nothing."""
    assert check(segment_anything, (240, 320), points_per_batch=batch) > 3


@pytest.mark.parametrize("min_area", [1, 30, 400, 10**6])
@pytest.mark.parametrize("layers", [0, 1])
def test_small_regions(segment_anything: ModuleType, min_area: int, layers: int) -> None:
    """Holes filled, islands removed, duplicates dropped once more, changed masks last."""
    settings = {"crop_n_layers": layers, "min_mask_region_area": min_area, "stability_score_thresh": 0.6}

    assert check(segment_anything, (120, 160), **settings) > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"pred_iou_thresh": 0.0},
        {"stability_score_thresh": 0.0},
        {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
        {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "crop_n_layers": 1, "points_per_side": 4},
        {"stability_score_thresh": 0.0, "min_mask_region_area": 50},
        {"pred_iou_thresh": 0.9},
        {"pred_iou_thresh": 1.0},
        {"stability_score_offset": 0.5, "stability_score_thresh": 0.9},
        {"box_nms_thresh": 0.0},
        {"box_nms_thresh": 1.0},
        {"crop_n_layers": 1, "box_nms_thresh": 0.9, "crop_nms_thresh": 0.2},
        {"crop_n_layers": 1, "crop_overlap_ratio": 0.6},
    ],
)
def test_thresholds(segment_anything: ModuleType, settings: dict[str, Any]) -> None:
    """Filters switched off, on the values themselves, and at the ends of their range."""
    assert check(segment_anything, (120, 160), **settings) > 0


def test_more_than_a_thousand_candidates(segment_anything: ModuleType) -> None:
    """There torchvision's NMS takes another road, on which the order of equal scores is anybody's guess."""
    settings = {"points_per_side": 20, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    model = DrawnSegmenter(128, ties=False)

    assert check(segment_anything, (120, 160), model, box_nms_thresh=0.97, **settings) > 100


def test_point_grids(segment_anything: ModuleType) -> None:
    """Grids of one's own, of different lengths for the layers."""
    grids = [np.array([[0.2, 0.3], [0.5, 0.5], [0.9, 0.1]]), np.array([[0.5, 0.4]])]
    settings = {"points_per_side": None, "point_grids": grids, "crop_n_layers": 1}

    assert check(segment_anything, (240, 320), stability_score_thresh=0.5, **settings) > 0


@pytest.mark.parametrize("encoder", ["vit", "tiny"])
@pytest.mark.parametrize("layers", [0, 1])
def test_a_network_with_random_weights(segment_anything: ModuleType, encoder: str, layers: int) -> None:
    """Real logits, from reduced networks; thresholds are lowered so that masks survive."""
    small_tiny = replace(ARCHITECTURES["tiny"], image_size=256, trunk_width=0.25)
    model = build_architecture(SMALL if encoder == "vit" else small_tiny)
    with torch.no_grad():
        randomise(model, seed=1)
    settings: dict[str, Any] = {
        "points_per_side": 5,
        "points_per_batch": 10,
        "pred_iou_thresh": -1e3,
        "stability_score_thresh": 0.0,
        "crop_n_layers": layers,
        "box_nms_thresh": 1.0,  # noise spans the whole image: every box is the same
        "crop_nms_thresh": 1.0,
        "output_mode": "coco_rle",
    }
    image = noise_image((180, 250))

    ours = SamAutomaticMaskGenerator(model, **settings).generate(image)

    assert len(ours) > 2
    assert_same_records(ours, reference_generator(segment_anything, model, **settings).generate(image))
