"""What our mask generator does that segment_anything's does not; the rest is held in tests/reference."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.amg.found_mask import FoundMask
from sam_engine.amg.mask_batch import clean_up_masks
from sam_engine.automatic_mask_generator import SamAutomaticMaskGenerator
from sam_engine.build_sam import build_architecture
from sam_engine.config import AmgConfig
from sam_engine.errors import ConfigError, ImageError
from sam_engine.modeling.onnx import SamOnnxModel
from sam_engine.modeling.sam import Sam
from sam_engine.modeling.segmenter import ImageEmbedding
from sam_engine.ops.rle import decode_counts, mask_to_runs
from sam_engine.predictor import SamPredictor
from sam_engine.structures import ImageStatus
from tests.helpers.fakes import DiscSegmenter
from tests.helpers.quick_search import SETTINGS, blank
from tests.helpers.reference_models import SMALL, make_reduced_tiny, randomise


class BrokenSegmenter(DiscSegmenter):
    """Writes ``value`` into the masks or scores of the prompts named; -1 names all."""

    def __init__(self, value: float, *, prompts: slice, scores: bool = False) -> None:
        super().__init__()
        self.value, self.prompts, self.scores = value, prompts, scores

    def decode(self, embedding: ImageEmbedding, **prompts: Any) -> tuple[Tensor, Tensor]:
        logits, scores = (output.clone() for output in super().decode(embedding, **prompts))
        if self.scores:
            scores[self.prompts] = self.value
        else:
            logits[self.prompts, :, 0, 0] = self.value
        return logits, scores


class FixedSegmenter(DiscSegmenter):
    """Gives every prompt the same three masks, with the same scores."""

    def __init__(self, logits: Tensor, scores: Sequence[float] = (0.9, 0.95, 1.0)) -> None:
        super().__init__(image_size=4 * logits.shape[-1])
        self.logits, self.scores = logits, torch.tensor(scores)

    def decode(self, embedding: ImageEmbedding, **prompts: Any) -> tuple[Tensor, Tensor]:
        batch = len(prompts["point_coords"])
        return self.logits.expand(batch, 3, -1, -1), self.scores.expand(batch, 3)


def test_a_grid_of_unequal_sides_is_prompted() -> None:
    """Along a panorama more points than across it."""
    config = AmgConfig(points_per_row=5, points_per_column=2, stability_score_thresh=0, box_nms_thresh=1.0)
    records = SamAutomaticMaskGenerator.from_config(DiscSegmenter(), config).generate(blank(100, 500))

    points = {tuple(round(x, 6) for x in record["point_coords"][0]) for record in records}
    assert points <= {(50.0 + 100 * x, 25.0 + 50 * y) for x in range(5) for y in range(2)}
    assert len(points) == 10


def test_records_can_be_written_as_json() -> None:
    """All values are plain Python, and boxes are ints."""
    records = SamAutomaticMaskGenerator(DiscSegmenter(), crop_n_layers=1, **SETTINGS).generate(
        blank(180, 250)
    )

    assert json.loads(json.dumps(records)) == records
    assert all(type(value) is int for record in records for value in record["bbox"] + record["crop_box"])


def test_area_and_box_are_those_of_the_mask() -> None:
    """Recomputed from the decoded run lengths."""
    records = SamAutomaticMaskGenerator(DiscSegmenter(), crop_n_layers=1, **SETTINGS).generate(
        blank(180, 250)
    )

    assert len(records) > 10
    for record in records:
        mask = decode_counts(record["segmentation"]["counts"], (180, 250))
        y, x = np.nonzero(mask)
        assert record["area"] == len(x)
        assert record["bbox"] == [x.min(), y.min(), x.max() - x.min(), y.max() - y.min()]


def test_no_masks_with_crops_is_an_empty_list() -> None:
    """Where segment_anything raises IndexError."""
    generator = SamAutomaticMaskGenerator(DiscSegmenter(), crop_n_layers=1, pred_iou_thresh=5.0)

    assert generator.generate(blank(180, 250)) == []


@pytest.mark.parametrize("size", [(1, 5000), (3000, 2), (1, 1), (3, 3)])
@pytest.mark.parametrize("layers", [0, 2])
def test_extreme_shapes(size: tuple[int, int], layers: int) -> None:
    """A side that would be resized to nothing keeps a pixel; crops without pixels are left out."""
    generator = SamAutomaticMaskGenerator(DiscSegmenter(), crop_n_layers=layers, **SETTINGS)

    assert all(record["segmentation"]["size"] == list(size) for record in generator.generate(blank(*size)))


def test_from_config_takes_every_setting() -> None:
    """The same as keyword arguments, with COCO run lengths by default."""
    config = AmgConfig(
        points_per_side=4,
        pred_iou_thresh=0.8,
        stability_score_thresh=0.85,
        crop_n_layers=1,
        max_mask_area_fraction=0.5,
    )
    generator = SamAutomaticMaskGenerator.from_config(DiscSegmenter(), config)

    assert generator.config is config
    assert generator.output_mode == "coco_rle"
    assert [len(grid) for grid in generator.point_grids] == [16, 16]


def test_settings_can_be_read_and_set_as_attributes() -> None:
    """As with segment_anything; a value out of range is refused."""
    generator = SamAutomaticMaskGenerator(DiscSegmenter(), **SETTINGS)
    generator.pred_iou_thresh = 0.97

    assert generator.config.pred_iou_thresh == 0.97
    assert {record["predicted_iou"] for record in generator.generate(blank(180, 250))} == {1.0}
    with pytest.raises(ConfigError, match=r"amg\.points_per_batch"):
        generator.points_per_batch = 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points_per_side": None}, "neither was given"),
        ({"point_grids": [np.zeros((1, 2))]}, "both was given"),
        (
            {"points_per_side": None, "point_grids": [np.zeros((1, 2))], "crop_n_layers": 1},
            "needs 2 point_grids",
        ),
        (
            {"points_per_side": None, "point_grids": [np.zeros((0, 2))]},
            r"point_grids\[0\] has shape \(0, 2\)",
        ),
        ({"output_mode": "polygon"}, "binary_mask, uncompressed_rle, coco_rle"),
        (
            {"points_per_side": 2, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
            "no point in layer 2",
        ),
        ({"box_nms_thresh": 1.5}, "box_nms_thresh"),
    ],
)
def test_wrong_settings_are_value_errors(settings: dict[str, Any], message: str) -> None:
    """Each with its own message, before any image is seen."""
    with pytest.raises(ValueError, match=message):
        SamAutomaticMaskGenerator(DiscSegmenter(), **settings)


def test_images_of_another_type_are_refused() -> None:
    """Floats in [0, 1] would give masks of darkness."""
    with pytest.raises(ValueError, match="uint8"):
        SamAutomaticMaskGenerator(DiscSegmenter(), **SETTINGS).generate(np.zeros((9, 9, 3)))  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_large_masks_are_dropped_on_request(fraction: float) -> None:
    """Masks covering 100 %, 50 % and 25 % of the image; 1.0 keeps all, 0.5 drops two."""
    full = torch.full((16, 16), 9.0)
    half, quarter = full.clone(), full.clone()
    half[:, 8:] = -9
    quarter[:, 4:] = -9
    model = FixedSegmenter(torch.stack([full, half, quarter]))
    generator = SamAutomaticMaskGenerator(model, points_per_side=1, max_mask_area_fraction=fraction)

    shares = [record["area"] / 64**2 for record in generator.generate(blank(64, 64))]

    assert shares == ([0.25] if fraction == 0.5 else [0.25, 0.5, 1.0])


def test_thresholds_are_compared_in_float32() -> None:
    """A stability on the threshold is kept, a predicted IoU is not; a difference below float32 is none."""
    soft = (8.5 - torch.arange(16.0)).expand(3, 16, 16)

    def count(stability: float, iou: float) -> int:
        model = FixedSegmenter(soft)
        generator = SamAutomaticMaskGenerator(
            model, points_per_side=1, stability_score_thresh=stability, pred_iou_thresh=iou
        )
        return len(generator.generate(blank(64, 64)))

    exact = SamAutomaticMaskGenerator(FixedSegmenter(soft), points_per_side=1, stability_score_thresh=0.5)
    stability = exact.generate(blank(64, 64))[0]["stability_score"]
    assert 0.5 < stability < 0.9

    assert count(stability, 0.98) == 1
    assert count(stability + 1e-9, 0.98) == 1
    assert count(stability + 1e-6, 0.98) == 0
    assert count(stability, 1.0) == 0
    assert count(stability, 1.0 - 1e-9) == 0
    assert count(stability, 1.0 - 1e-6) == 1


def found(mask: NDArray[np.bool_]) -> FoundMask:
    y, x = np.nonzero(mask)
    return FoundMask(
        runs=mask_to_runs(mask),
        box_xyxy=(int(x.min()), int(y.min()), int(x.max()), int(y.max())),
        predicted_iou=0.9,
        stability_score=0.95,
        point_coords=((0.5, 0.5),),
        crop_box=(0, 0, mask.shape[1], mask.shape[0]),
    )


@pytest.mark.parametrize("drop_small", [False, True])
def test_small_masks_are_dropped_on_request(drop_small: bool) -> None:
    """SA-1B's rule: the largest region is below the threshold. segment_anything keeps that region."""
    crumbs, block = np.zeros((40, 40), dtype=bool), np.zeros((40, 40), dtype=bool)
    crumbs[0, 0] = crumbs[30, 30:33] = True
    block[10:20, 10:20] = True

    masks = [found(crumbs), found(block)]
    cleaned = clean_up_masks(masks, (40, 40), min_area=10, drop_small=drop_small, nms_thresh=0.7)

    assert cleaned[0] is masks[1]
    assert [mask.box_xyxy for mask in cleaned[1:]] == ([] if drop_small else [(30, 30, 32, 30)])


def test_cleaning_nothing_gives_nothing() -> None:
    """No masks, no crash."""
    assert clean_up_masks([], (4, 4), min_area=10, drop_small=True, nms_thresh=0.7) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("threshold", [0.88, 0.0])
def test_a_model_without_finite_outputs_is_an_image_error(
    value: float, scores: bool, threshold: float
) -> None:
    """Its status is the one that the image's row gets."""
    model = BrokenSegmenter(value, prompts=slice(None), scores=scores)
    generator = SamAutomaticMaskGenerator(model, points_per_side=2, pred_iou_thresh=threshold)

    with pytest.raises(ImageError, match="12 of 12 masks") as caught:
        generator.generate(blank(50, 60))
    assert caught.value.status is ImageStatus.MODEL_NONFINITE


@pytest.mark.parametrize("scores", [True, False])
def test_single_masks_that_are_not_finite_are_dropped(scores: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The others are as they would be, and a warning counts the loss."""
    settings = SETTINGS | {"box_nms_thresh": 1.0, "pred_iou_thresh": 0.0}
    whole = SamAutomaticMaskGenerator(DiscSegmenter(), **settings).generate(blank(180, 250))
    model = BrokenSegmenter(float("nan"), prompts=slice(0, 1), scores=scores)
    with caplog.at_level(logging.WARNING):
        rest = SamAutomaticMaskGenerator(model, **settings).generate(blank(180, 250))

    first_point = min(record["point_coords"] for record in whole)
    assert rest == [record for record in whole if record["point_coords"] != first_point]
    assert len(rest) < len(whole)
    assert "3 of 48 masks" in caplog.text


def test_the_predictor_is_there_for_users() -> None:
    """`generator.predictor` serves prompts of one's own over the same model."""
    generator = SamAutomaticMaskGenerator(DiscSegmenter())

    assert isinstance(generator.predictor, SamPredictor)
    assert generator.predictor is generator.predictor
    assert generator.predictor.model is generator.model


def test_onnx_model_refuses_skip_features() -> None:
    """Its inputs have no place for them."""
    tiny = make_reduced_tiny()

    with pytest.raises(ConfigError, match="skip features"):
        SamOnnxModel(tiny, return_single_mask=True)


class ThoroughSam:
    """A `Sam` that makes the logits of all prompts, wanted or not."""

    def __init__(self, sam: Sam) -> None:
        self.sam = sam
        self.mask_threshold, self.image_size, self.device = sam.mask_threshold, sam.image_size, sam.device

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        return self.sam.encode(images)

    def decode(self, embedding: ImageEmbedding, **prompts: Any) -> tuple[Tensor, Tensor]:
        return self.sam.decode(embedding, **{**prompts, "iou_thresh": None})


@pytest.mark.parametrize("kind", ["vit", "tiny"])
@pytest.mark.parametrize("size", [(48, 96), (80, 64)])
def test_work_saved_by_the_model_changes_no_record(kind: str, size: tuple[int, int]) -> None:
    """Leaving out prompts below the threshold, and logits of padding, gives the same records."""
    architecture = SMALL if kind == "vit" else replace(SMALL, encoder="tiny", trunk_width=0.25)
    sam = build_architecture(architecture)
    randomise(sam, seed=3)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    embedding = sam.encode([image])[0]
    points = torch.rand(64, 1, 2, generator=torch.Generator().manual_seed(0)) * sam.image_size
    with torch.no_grad():
        _, predicted_iou = sam.decode(embedding, point_coords=points, point_labels=torch.ones(64, 1))
    settings = {
        "points_per_side": 8,
        "pred_iou_thresh": max(1e-9, float(predicted_iou.quantile(0.8))),
        "stability_score_thresh": 0.0,
        "output_mode": "coco_rle",
    }

    saving, thorough = (SamAutomaticMaskGenerator(model, **settings) for model in (sam, ThoroughSam(sam)))
    records = saving.generate(image)

    assert records == thorough.generate(image)
    assert 0 < len(records) < 3 * 64


@pytest.mark.parametrize(
    "settings",
    [
        {"points_per_side": 4.0},
        {"points_per_side": "4"},
        {"points_per_batch": None},
        {"points_per_batch": True},
        {"crop_n_layers": 1.5},
        {"min_mask_region_area": None},
        {"pred_iou_thresh": "0.9"},
        {"stability_score_offset": None},
        {"box_nms_thresh": [0.7]},
        {"points_per_side": None, "point_grids": [[0.5, 0.5]]},
        {"points_per_side": None, "point_grids": [["a", "b"]]},
        {"points_per_side": None, "point_grids": 3},
        {"points_per_side": None, "point_grids": [[[320, 240]]]},
        {"points_per_side": None, "point_grids": [[[0.5, -0.1]]]},
        {"points_per_side": None, "point_grids": [[[0.5, float("nan")]]]},
        {"points_per_side": None, "point_grids": [[[0.5, 0.5], [0.5]]]},
    ],
    ids=str,
)
def test_settings_of_another_type_are_refused(settings):
    """When they are given, by name, and not in the middle of the first image."""
    with pytest.raises(ConfigError, match=list(settings)[-1]):
        SamAutomaticMaskGenerator(DiscSegmenter(), **settings)


def test_grids_may_be_lists():
    """As segment_anything takes them; numbers of numpy are settings, too."""
    generator = SamAutomaticMaskGenerator(
        DiscSegmenter(),
        points_per_side=None,
        point_grids=[[[0.5, 0.5]]],
        points_per_batch=np.int64(8),
        pred_iou_thresh=np.float32(0.5),
    )

    assert len(generator.generate(np.zeros((100, 100, 3), dtype=np.uint8))) == 3
