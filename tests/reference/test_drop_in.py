"""Programs written for ``segment_anything`` 1.0 run on ours, with nothing changed but the import.

The functions below make the calls of its scripts/amg.py and of its three notebooks; each is run with either
package, on models with the same random weights.
"""

import csv
import inspect
import io
import json
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import sam_engine
from sam_engine.build_sam import build_architecture
from tests.helpers.reference_models import SMALL, randomise
from tools.reference import build_reference

pytestmark = pytest.mark.reference

OURS_ALONE = {"max_mask_area_fraction", "drop_small_masks", "embedding"}


@pytest.fixture(scope="module")
def both(segment_anything: ModuleType) -> list[tuple[Any, Any]]:
    """(package, model) of ours and of the reference."""
    reference = build_reference(segment_anything, SMALL)
    with torch.no_grad():
        randomise(reference, seed=5)
    ours = build_architecture(SMALL)
    ours.load_state_dict(reference.state_dict())
    return [(sam_engine, ours), (segment_anything, reference)]


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """Blobs on noise, RGB."""
    pixels = np.random.default_rng(4).integers(60, size=(150, 220, 3), dtype=np.uint8)
    pixels[20:70, 30:120] += 150
    pixels[90:140, 100:190, 1] += 90
    return pixels


def mask_generator_script(package: Any, sam: Any, image: NDArray[np.uint8]) -> tuple[str, str]:
    """The calls of scripts/amg.py: keyword arguments, a CSV of the records, and COCO run lengths as JSON."""
    arguments = {
        "points_per_side": 6,
        "points_per_batch": 16,
        "pred_iou_thresh": 0.1,
        "stability_score_thresh": 0.3,
        "stability_score_offset": 0.02,
        "box_nms_thresh": 1.0,
        "crop_n_layers": 1,
        "crop_nms_thresh": 1.0,
        "crop_overlap_ratio": None,
        "crop_n_points_downscale_factor": 2,
        "min_mask_region_area": None,
    }
    given = {key: value for key, value in arguments.items() if value is not None}
    sam.to(device="cpu")
    generator = package.SamAutomaticMaskGenerator(sam, output_mode="binary_mask", **given)
    table = io.StringIO()
    rows = csv.writer(table)
    for number, record in enumerate(generator.generate(image)):
        assert record["segmentation"].shape == image.shape[:2]
        # The reference's boxes are ints or floats, depending on the batches.
        numbers = [float(number) for number in (*record["point_coords"][0], *record["crop_box"])]
        rows.writerow([number, *numbers])
    generator = package.SamAutomaticMaskGenerator(sam, output_mode="coco_rle", **given)
    return table.getvalue(), json.dumps(generator.generate(image))


def mask_generator_notebook(package: Any, sam: Any, image: NDArray[np.uint8]) -> list[Any]:
    """Sort by area, read shapes and keys; use the generator's own predictor."""
    generator = package.SamAutomaticMaskGenerator(
        model=sam, points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0
    )
    masks = sorted(generator.generate(image), key=lambda record: record["area"], reverse=True)
    generator.predictor.set_image(image)
    embedding = generator.predictor.get_image_embedding()
    return [len(masks), list(masks[0]), masks[0]["segmentation"].shape, tuple(embedding.shape)]


def predictor_notebook(package: Any, sam: Any, image: NDArray[np.uint8]) -> list[Any]:
    """Clicks, the best mask fed back, boxes one by one and together, and several images at once."""
    predictor = package.SamPredictor(sam)
    predictor.set_image(image)
    point, label = np.array([[75, 45]]), np.array([1])
    masks, scores, logits = predictor.predict(point_coords=point, point_labels=label, multimask_output=True)
    best = logits[np.argmax(scores), :, :]
    refined, _, _ = predictor.predict(
        point_coords=np.array([[75, 45], [150, 120]]),
        point_labels=np.array([1, 0]),
        mask_input=best[None, :, :],
        multimask_output=False,
    )
    from_box, _, _ = predictor.predict(
        point_coords=None, point_labels=None, box=np.array([30, 20, 120, 70])[None, :], multimask_output=False
    )
    boxes = torch.tensor([[30, 20, 120, 70], [100, 90, 190, 140]], device=predictor.device)
    transformed = predictor.transform.apply_boxes_torch(boxes, image.shape[:2])
    from_boxes, _, _ = predictor.predict_torch(
        point_coords=None, point_labels=None, boxes=transformed, multimask_output=False
    )
    resize = type(predictor.transform)(sam.image_encoder.img_size)
    pixels = torch.as_tensor(resize.apply_image(image), device=sam.device.type).permute(2, 0, 1).contiguous()
    batched_input = [
        {
            "image": pixels,
            "boxes": resize.apply_boxes_torch(boxes, image.shape[:2]),
            "original_size": image.shape[:2],
        },
        {
            "image": pixels,
            "boxes": resize.apply_boxes_torch(boxes[:1], image.shape[:2]),
            "original_size": image.shape[:2],
        },
    ]
    batched_output = sam(batched_input, multimask_output=False)
    return [masks, refined, from_box, from_boxes] + [output["masks"] for output in batched_output]


def onnx_notebook(package: Any, sam: Any, image: NDArray[np.uint8], onnx_class: Any) -> list[Any]:
    """The decoder's dummy inputs and outputs, the prompts prepared by hand."""
    model = onnx_class(sam, return_single_mask=True)
    embed_dim = sam.prompt_encoder.embed_dim
    embed_size = sam.prompt_encoder.image_embedding_size
    mask_input_size = [4 * side for side in embed_size]
    model(
        image_embeddings=torch.zeros(1, embed_dim, *embed_size),
        point_coords=torch.zeros(1, 5, 2),
        point_labels=torch.ones(1, 5),
        mask_input=torch.zeros(1, 1, *mask_input_size),
        has_mask_input=torch.ones(1),
        orig_im_size=torch.tensor([150.0, 220.0]),
    )
    predictor = package.SamPredictor(sam)
    predictor.set_image(image)
    embedding = predictor.get_image_embedding().cpu().numpy()
    box, point, label = np.array([30, 20, 120, 70]), np.array([[75, 45]]), np.array([1])
    coords = np.concatenate([point, box.reshape(2, 2)], axis=0)[None, :, :]
    labels = np.concatenate([label, np.array([2, 3])])[None, :].astype(np.float32)
    coords = predictor.transform.apply_coords(coords, image.shape[:2]).astype(np.float32)
    masks, _, low_res = model(
        torch.from_numpy(embedding),
        torch.from_numpy(coords),
        torch.from_numpy(labels),
        torch.zeros(1, 1, *mask_input_size),
        torch.zeros(1),
        torch.tensor(image.shape[:2], dtype=torch.float32),
    )
    return [masks > predictor.model.mask_threshold, low_res > 0]


def assert_nearly_the_same(ours: list[Any], reference: list[Any]) -> None:
    """Masks may differ in single pixels at the threshold, since float32 sums differ in order."""
    assert len(ours) == len(reference)
    for mine, theirs in zip(ours, reference, strict=True):
        assert tuple(mine.shape) == tuple(theirs.shape)
        assert mine.dtype == theirs.dtype
        assert float((torch.as_tensor(mine) != torch.as_tensor(theirs)).float().mean()) < 1e-3


def test_the_script(both: list[tuple[Any, Any]], image: NDArray[np.uint8]) -> None:
    """The same table; the same run lengths, but for single pixels."""
    (our_table, our_json), (table, text) = (mask_generator_script(*pair, image) for pair in both)

    assert len(table.splitlines()) > 3
    assert our_table == table
    for mine, theirs in zip(json.loads(our_json), json.loads(text), strict=True):
        assert mine["area"] == pytest.approx(theirs["area"], abs=20)
        assert mine["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-4)


def test_the_mask_generator_notebook(both: list[tuple[Any, Any]], image: NDArray[np.uint8]) -> None:
    """Counts, keys and shapes."""
    ours, reference = (mask_generator_notebook(*pair, image) for pair in both)

    assert ours == reference


def test_the_predictor_notebook(both: list[tuple[Any, Any]], image: NDArray[np.uint8]) -> None:
    """All masks of the notebook."""
    assert_nearly_the_same(*(predictor_notebook(*pair, image) for pair in both))


def test_the_onnx_notebook(both: list[tuple[Any, Any]], image: NDArray[np.uint8]) -> None:
    """Up to the export itself, which needs the onnx package."""
    from segment_anything.utils.onnx import SamOnnxModel as ReferenceOnnxModel

    from sam_engine.utils.onnx import SamOnnxModel

    classes = (SamOnnxModel, ReferenceOnnxModel)

    assert_nearly_the_same(
        *(onnx_notebook(*pair, image, kind) for pair, kind in zip(both, classes, strict=True))
    )


THRESHOLDS = ("pred_iou_thresh", "stability_score_thresh")


@pytest.mark.parametrize(
    "name",
    [
        "SamAutomaticMaskGenerator.__init__",
        "SamAutomaticMaskGenerator.generate",
        "SamPredictor.__init__",
        "SamPredictor.set_image",
        "SamPredictor.set_torch_image",
        "SamPredictor.predict",
        "SamPredictor.predict_torch",
        "SamPredictor.get_image_embedding",
        "SamPredictor.reset_image",
    ],
)
def test_signatures(segment_anything: ModuleType, name: str) -> None:
    """Parameters have the reference's names, order and defaults; ours alone come after them.

    The one difference: thresholds that are not given are the model's.
    """
    class_name, method = name.split(".")
    ours = inspect.signature(getattr(getattr(sam_engine, class_name), method)).parameters
    reference = inspect.signature(getattr(getattr(segment_anything, class_name), method)).parameters

    shared = [(key, value.default) for key, value in ours.items() if key not in OURS_ALONE]
    assert shared == [(key, None if key in THRESHOLDS else value.default) for key, value in reference.items()]


def test_public_names(segment_anything: ModuleType) -> None:
    """All that the reference offers, and the same models in its registry."""
    names = [name for name in vars(segment_anything) if name.startswith(("build_", "Sam", "sam_model"))]

    assert [name for name in names if name != "build_sam" and not hasattr(sam_engine, name)] == []
    assert set(segment_anything.sam_model_registry) <= set(sam_engine.sam_model_registry)


def test_helper_modules(segment_anything: ModuleType) -> None:
    """Helpers of utils.amg have the same names."""
    from sam_engine.utils import amg

    reference = segment_anything.utils.amg
    helpers = {
        name
        for name, value in vars(reference).items()
        if getattr(value, "__module__", "") == reference.__name__ and not name.startswith("_")
    }

    assert helpers - set(vars(amg)) == set()
