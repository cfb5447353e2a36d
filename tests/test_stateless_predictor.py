"""Embeddings as values: given to `predict`, kept in files, used by threads; and many boxes at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sam_engine import load_embedding, save_embedding
from sam_engine.build_sam import build_architecture
from sam_engine.errors import ConfigError
from sam_engine.modeling.sam import Sam
from sam_engine.ops import resize
from sam_engine.predictor import SamPredictor
from tests.helpers.fakes import make_reduced_tiny
from tests.helpers.reference_models import SMALL, randomise

POINT: dict[str, Any] = {"point_coords": [[50, 40]], "point_labels": [1]}
BOXES = np.array([[10, 10, 60, 50], [30, 20, 150, 80], [0, 0, 199, 99], [5, 5, 5, 5]])


def picture(seed: int, size: tuple[int, int] = (100, 200)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=["vit", "tiny"])
def sam(request: pytest.FixtureRequest) -> Sam:
    """With skip features, and without."""
    if request.param == "tiny":
        return make_reduced_tiny()
    sam = build_architecture(SMALL)
    randomise(sam, seed=1)
    return sam


def assert_equal(ours: Any, theirs: Any) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_an_embedding_is_answered_whatever_is_set(sam: Sam) -> None:
    """With the masks of `set_image`, and the image that is set stays."""
    predictor = SamPredictor(sam)
    predictor.set_image(picture(0))
    before = predictor.predict(**POINT)
    embedding = predictor.encode(picture(1, (80, 90))[..., ::-1], "BGR")
    other = SamPredictor(sam)
    other.set_image(picture(1, (80, 90)))

    assert_equal(other.predict(**POINT), SamPredictor(sam).predict(**POINT, embedding=embedding))
    assert_equal(other.predict(**POINT), predictor.predict(**POINT, embedding=embedding))
    assert_equal(before, predictor.predict(**POINT))


def test_an_embedding_in_a_file_gives_the_same_masks(sam: Sam, tmp_path: Path) -> None:
    """Sizes and skip features are in it."""
    predictor = SamPredictor(sam)
    embedding = predictor.encode(picture(0))
    save_embedding(embedding, tmp_path / "a.embedding")
    loaded = load_embedding(tmp_path / "a.embedding")

    assert_equal(
        predictor.predict(**POINT, embedding=embedding), predictor.predict(**POINT, embedding=loaded)
    )


@pytest.mark.parametrize("content", [b"", b"no embedding at all", None])
def test_a_file_that_is_no_embedding_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """Damaged, or of another kind, as weights are."""
    path = tmp_path / "a"
    if content is None:
        from safetensors.torch import save_file

        save_file({"features": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match="embedding"):
        load_embedding(path)


def test_an_embedding_of_another_model_is_refused() -> None:
    """By its shape."""
    embedding = SamPredictor(make_reduced_tiny()).encode(picture(0))

    with pytest.raises(ValueError, match=r"the embedding has shape \(1, 32, 8, 8\); this model's is \(1, 64"):
        SamPredictor(build_architecture(SMALL)).predict(**POINT, embedding=embedding)


@pytest.mark.parametrize("multimask_output", [False, True])
def test_several_boxes_are_several_prompts(sam: Sam, multimask_output: bool) -> None:
    """Each is answered as it is alone, up to the rounding of a batch; shapes have an axis before."""
    predictor = SamPredictor(sam)
    embedding = predictor.encode(picture(0))
    given: dict[str, Any] = {
        "multimask_output": multimask_output,
        "return_logits": True,
        "embedding": embedding,
    }
    masks, scores, logits = predictor.predict(box=BOXES, **given)
    alone = [predictor.predict(box=box, **given) for box in BOXES]

    assert masks.shape == (4, 3 if multimask_output else 1, 100, 200)
    for number, (mask, score, low_res) in enumerate(alone):
        np.testing.assert_allclose(masks[number], mask, atol=1e-3)
        np.testing.assert_allclose(scores[number], score, atol=1e-4)
        np.testing.assert_allclose(logits[number], low_res, atol=1e-3)


def test_several_boxes_with_points_and_masks(sam: Sam) -> None:
    """Points, labels and masks then have the axis too."""
    predictor = SamPredictor(sam)
    embedding = predictor.encode(picture(0))
    points = {"point_coords": BOXES[:, None, :2] + 3, "point_labels": np.ones((4, 1))}
    _, _, logits = predictor.predict(box=BOXES, multimask_output=False, embedding=embedding, **points)
    masks, _, _ = predictor.predict(box=BOXES, mask_input=logits, embedding=embedding, **points)

    assert masks.shape == (4, 3, 100, 200)


@pytest.mark.parametrize("size", [(100, 200), (300, 201)])
def test_parts_of_masks_are_the_masks(
    sam: Sam, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thresholded a prompt at a time, or all together: the same to the last pixel."""
    predictor = SamPredictor(sam)
    embedding = predictor.encode(picture(0, size))
    whole, _, _ = predictor.predict(box=BOXES, embedding=embedding)
    monkeypatch.setattr(resize, "MAX_PIXELS_AT_ONCE", 1)
    parts, _, _ = predictor.predict(box=BOXES, embedding=embedding)

    assert whole.dtype == parts.dtype == bool
    assert_equal([whole], [parts])


def test_threads_share_a_predictor(sam: Sam) -> None:
    """Each encodes and asks about its own image; the answers are those of one after the other."""
    predictor = SamPredictor(sam)

    def answer(seed: int) -> list[Any]:
        embedding = predictor.encode(picture(seed, (60 + 7 * seed, 90)))
        return [predictor.predict(box=[5, 5, 50, 40 + i], embedding=embedding) for i in range(3)]

    expected = [answer(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(answer, range(6)))

    for mine, other in zip(found, expected, strict=True):
        for ours, theirs in zip(mine, other, strict=True):
            assert_equal(ours, theirs)
