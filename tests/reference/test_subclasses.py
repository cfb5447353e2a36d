"""Subclasses and replaced parts of generator and predictor do what they do over ``segment_anything`` 1.0."""

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import sam_engine
from sam_engine.automatic_mask_generator import SamAutomaticMaskGenerator
from sam_engine.build_sam import build_architecture
from sam_engine.errors import ConfigError
from sam_engine.ops.rle import mask_ious
from sam_engine.utils.amg import MaskData
from tests.helpers.reference_models import SMALL, randomise
from tests.reference.test_amg_parity import DrawnSegmenter, assert_same_records, noise_image
from tools.reference import build_reference, reference_generator

pytestmark = pytest.mark.reference

SETTINGS: dict[str, Any] = {"points_per_side": 4, "points_per_batch": 5, "output_mode": "coco_rle"}
FILTERS: dict[str, Any] = {
    "pred_iou_thresh": 0.1,
    "stability_score_thresh": 0.3,
    "stability_score_offset": 0.02,
    "box_nms_thresh": 1.0,
    "crop_nms_thresh": 1.0,
}


@pytest.fixture(scope="module")
def both(segment_anything: ModuleType) -> list[tuple[Any, Any]]:
    """(package, model) of ours and of the reference, with equal weights."""
    reference = build_reference(segment_anything, SMALL)
    with torch.no_grad():
        randomise(reference, seed=5)
    ours = build_architecture(SMALL)
    ours.load_state_dict(reference.state_dict())
    return [(sam_engine, ours), (segment_anything, reference)]


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """Blobs on noise, RGB."""
    pixels = np.random.default_rng(4).integers(60, size=(110, 160, 3), dtype=np.uint8)
    pixels[20:70, 30:120] += 150
    return pixels


def assert_alike(both: list[tuple[Any, Any]], run: Callable[[Any, Any], Any]) -> Any:
    """Both packages give the same records, up to rounding, which random weights magnify; return ours."""
    ours, theirs = (run(*pair) for pair in both)
    assert len(ours) == len(theirs) > 1
    for mine, other in zip(ours, theirs, strict=True):
        assert list(mine) == list(other)
        assert mask_ious([mine["segmentation"]], [other["segmentation"]]) > 0.98
        for key in ("crop_box", "point_coords"):
            assert mine[key] == other[key]
        for key in ("predicted_iou", "stability_score"):
            assert mine[key] == pytest.approx(other[key], abs=1e-2)
    return ours


def larger_batches_only(package: Any) -> Any:
    class Generator(package.SamAutomaticMaskGenerator):
        def _process_batch(self, points: Any, im_size: Any, crop_box: Any, orig_size: Any) -> Any:
            data = super()._process_batch(points, im_size, crop_box, orig_size)
            data.filter(
                torch.tensor([sum(rle["counts"][1::2]) > 500 for rle in data["rles"]], dtype=torch.bool)
            )
            return data

    return Generator


def left_half_of_crops(package: Any) -> Any:
    class Generator(package.SamAutomaticMaskGenerator):
        def _process_crop(self, image: Any, crop_box: Any, crop_layer_idx: int, orig_size: Any) -> Any:
            data = super()._process_crop(image, crop_box, crop_layer_idx, orig_size)
            data.filter(data["points"][:, 0] < orig_size[1] / 2)
            return data

    return Generator


def sorted_by_area(package: Any) -> Any:
    class Generator(package.SamAutomaticMaskGenerator):
        def _generate_masks(self, image: Any) -> Any:
            data = super()._generate_masks(image)
            areas = torch.tensor([sum(rle["counts"][1::2]) for rle in data["rles"]])
            data.filter(areas.argsort(stable=True))
            return data

    return Generator


def without_clean_up(package: Any) -> Any:
    class Generator(package.SamAutomaticMaskGenerator):
        @staticmethod
        def postprocess_small_regions(mask_data: Any, min_area: int, nms_thresh: float) -> Any:
            mask_data.filter(torch.arange(len(mask_data["rles"]) - 1))
            return mask_data

    return Generator


@pytest.mark.parametrize("make", [larger_batches_only, left_half_of_crops, sorted_by_area, without_clean_up])
def test_a_subclass_replaces_a_step(
    both: list[tuple[Any, Any]], image: NDArray[np.uint8], make: Callable[[Any], Any]
) -> None:
    """What it makes of the masks is in the records; ours say so once."""
    assert_alike(
        both,
        lambda package, sam: make(package)(
            sam, crop_n_layers=1, min_mask_region_area=20, **SETTINGS, **FILTERS
        ).generate(image),
    )


def test_an_assigned_predictor_is_asked(both: list[tuple[Any, Any]], image: NDArray[np.uint8]) -> None:
    """As people do who change how an image is encoded or a prompt answered."""

    def run(package: Any, sam: Any) -> Any:
        class Shy(package.SamPredictor):
            def predict_torch(self, *args: Any, **kwargs: Any) -> Any:
                masks, scores, low_res = super().predict_torch(*args, **kwargs)
                return masks - 0.1, scores / 2, low_res

        generator = package.SamAutomaticMaskGenerator(sam, **SETTINGS, **FILTERS)
        generator.predictor = Shy(sam)
        return generator.generate(image)

    assert_alike(both, run)


def test_a_predictor_whose_method_is_replaced_is_asked(
    both: list[tuple[Any, Any]], image: NDArray[np.uint8]
) -> None:
    """On the generator's own predictor, without a class."""

    def run(package: Any, sam: Any) -> Any:
        generator = package.SamAutomaticMaskGenerator(sam, **SETTINGS, **FILTERS)
        set_image = generator.predictor.set_image
        generator.predictor.set_image = lambda pixels: set_image(255 - pixels)
        return generator.generate(image)

    ours = assert_alike(both, run)
    plain = SamAutomaticMaskGenerator(both[0][1], **SETTINGS, **FILTERS).generate(image)
    assert ours != plain


def test_settings_before_super(both: list[tuple[Any, Any]], image: NDArray[np.uint8]) -> None:
    """A subclass may set them first; its call of the constructor then decides."""

    def run(package: Any, sam: Any) -> Any:
        class Generator(package.SamAutomaticMaskGenerator):
            def __init__(self, model: Any, **settings: Any) -> None:
                self.points_per_batch = 3
                self.predictor = None
                super().__init__(model, **settings)

        return Generator(sam, **SETTINGS, **FILTERS).generate(image)

    assert_alike(both, run)


@pytest.mark.parametrize(
    "settings", [{}, {"crop_n_layers": 1}, {"min_mask_region_area": 60}, {"pred_iou_thresh": 0.0}]
)
@pytest.mark.parametrize("size", [(240, 320), (97, 131)])
def test_the_steps_find_what_the_reference_finds(
    segment_anything: ModuleType, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    """To the last value, with masks of all kinds; so does the fast way."""
    settings = {"points_per_side": 6, "output_mode": "coco_rle"} | settings
    model, image = DrawnSegmenter(), noise_image(size)

    class Generator(SamAutomaticMaskGenerator):
        def _process_batch(self, *args: Any) -> MaskData:
            return super()._process_batch(*args)

    stepwise = Generator(model, **settings).generate(image)

    assert_same_records(stepwise, reference_generator(segment_anything, model, **settings).generate(image))
    assert stepwise == SamAutomaticMaskGenerator(model, **settings).generate(image)


def test_the_slow_way_is_said_once(image: NDArray[np.uint8], caplog: pytest.LogCaptureFixture) -> None:
    """With the name of what is replaced; batches take it too."""
    generator = larger_batches_only(sam_engine)(DrawnSegmenter(), **SETTINGS)
    with caplog.at_level(logging.WARNING):
        generator.generate_batch([image, image])

    assert [record.message for record in caplog.records] == [
        "_process_batch is replaced: masks are made as in segment_anything, more slowly"
    ]


def test_own_settings_in_steps(image: NDArray[np.uint8]) -> None:
    """The largest area holds there too; dropping small masks has no step, and is refused."""
    kind = larger_batches_only(sam_engine)
    areas = [
        r["area"] for r in kind(DrawnSegmenter(), max_mask_area_fraction=0.2, **SETTINGS).generate(image)
    ]

    assert 500 < max(areas) < 0.2 * image.shape[0] * image.shape[1]
    with pytest.raises(ConfigError, match="drop_small_masks is not possible while _process_batch"):
        kind(DrawnSegmenter(), drop_small_masks=True, **SETTINGS).generate(image)


def test_set_image_goes_through_set_torch_image(
    both: list[tuple[Any, Any]], image: NDArray[np.uint8]
) -> None:
    """And masks through the model's postprocess_masks, so that either can be replaced."""

    def run(package: Any, sam: Any) -> Any:
        class Predictor(package.SamPredictor):
            def set_torch_image(self, transformed_image: Any, original_image_size: Any) -> None:
                super().set_torch_image(transformed_image.flip(-1), original_image_size)

        predictor = Predictor(sam)
        predictor.set_image(image)
        sam.postprocess_masks = lambda masks, *sizes: 3 * type(sam).postprocess_masks(sam, masks, *sizes)
        try:
            return predictor.predict(np.array([[50, 60]]), np.array([1]), return_logits=True)
        finally:
            del sam.postprocess_masks

    ours, theirs = (run(*pair) for pair in both)

    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-4)
