"""What `SamPredictor` refuses, remembers and forgets."""

import numpy as np
import pytest
import torch

from sam_engine.predictor import SamPredictor
from tests.helpers.fakes import DiscSegmenter

IMAGE = np.zeros((100, 200, 3), dtype=np.uint8)


@pytest.fixture
def predictor() -> SamPredictor:
    """With an image set, over the fake model."""
    predictor = SamPredictor(DiscSegmenter())
    predictor.set_image(IMAGE)
    return predictor


def test_a_click_gives_a_disc_round_it(predictor: SamPredictor) -> None:
    """Points are given in pixels of the image, and masks come back in its size."""
    masks, scores, logits = predictor.predict(np.array([[50, 40]]), np.array([1]))

    assert masks.shape == (3, 100, 200)
    assert scores.tolist() == pytest.approx([0.9, 0.95, 1.0])
    assert logits.shape == (3, 64, 64)
    assert masks[0, 40, 50]
    assert not masks[0, 40, 90]  # radius 30 in the input frame is 23.4 px here


def test_without_an_image_prompts_are_refused() -> None:
    """The message says what to call."""
    predictor = SamPredictor(DiscSegmenter())

    with pytest.raises(RuntimeError, match="set_image"):
        predictor.predict(np.array([[5, 5]]), np.array([1]))
    with pytest.raises(RuntimeError, match="set_image"):
        predictor.get_image_embedding()


def test_reset_forgets_the_image(predictor: SamPredictor) -> None:
    """After it prompts are refused again."""
    predictor.reset_image()

    assert not predictor.is_image_set
    assert predictor.features is None
    with pytest.raises(RuntimeError):
        predictor.predict()


def test_a_stored_embedding_can_be_put_back(predictor: SamPredictor) -> None:
    """Embeddings computed once serve later predictors."""
    other = SamPredictor(DiscSegmenter())
    other.features = predictor.get_image_embedding()
    other.original_size, other.input_size = predictor.original_size, predictor.input_size
    other.is_image_set = True

    masks, _, _ = other.predict(np.array([[50, 40]]), np.array([1]))

    assert np.array_equal(masks, predictor.predict(np.array([[50, 40]]), np.array([1]))[0])


def test_points_need_labels(predictor: SamPredictor) -> None:
    """The message says which."""
    with pytest.raises(ValueError, match="point_labels"):
        predictor.predict(np.array([[5, 5]]))


@pytest.mark.parametrize(
    ("coords", "labels"), [([5, 5], [1]), ([[5, 5, 5]], [1]), ([[5, 5]], [1, 0]), ([[5, 5]], 1)]
)
def test_odd_shapes_are_named(predictor: SamPredictor, coords: list[object], labels: object) -> None:
    """Points are (N, 2), labels (N,)."""
    with pytest.raises(ValueError, match=r"\(N, 2\) and \(N,\)"):
        predictor.predict(np.array(coords), np.array(labels))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5), dtype=np.uint8), r"shape \(4, 5\).*RGB"),
        (np.zeros((4, 5, 4), dtype=np.uint8), r"shape \(4, 5, 4\).*RGB"),
        (np.zeros((0, 5, 3), dtype=np.uint8), r"shape \(0, 5, 3\)"),
        (np.zeros((4, 5, 3)), "float64"),
        ([[1]], "list"),
    ],
)
def test_other_images_are_refused(predictor: SamPredictor, image: object, message: str) -> None:
    """Each with what it is and what is wanted."""
    with pytest.raises(ValueError, match=message):
        predictor.set_image(image)  # type: ignore[arg-type]


def test_unknown_image_format_is_refused(predictor: SamPredictor) -> None:
    """The message names the choices."""
    with pytest.raises(ValueError, match="RGB, BGR"):
        predictor.set_image(IMAGE, image_format="HSV")


def test_torch_images_must_fit_the_model(predictor: SamPredictor) -> None:
    """The longer side is the model's."""
    with pytest.raises(ValueError, match="longer side of 256"):
        predictor.set_torch_image(torch.zeros(1, 3, 100, 200), (100, 200))
    with pytest.raises(TypeError, match="DiscSegmenter"):
        predictor.set_torch_image(torch.zeros(1, 3, 100, 256), (100, 200))
