"""Where memory runs out: fewer prompts and images at once, and the same masks."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from sam_engine.amg import mask_finder as finder_module
from sam_engine.amg import measure as logits_module
from sam_engine.automatic_mask_generator import SamAutomaticMaskGenerator
from sam_engine.errors import ImageError
from sam_engine.modeling.segmenter import ImageEmbedding
from sam_engine.structures import ImageStatus
from tests.helpers.fakes import DiscSegmenter
from tests.helpers.quick_search import SETTINGS, blank


class RecordingSegmenter(DiscSegmenter):
    """Notes how many images were encoded together."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        self.batches.append(len(images))
        return super().encode(images)


def test_a_batch_gives_what_the_images_give_alone() -> None:
    """Images of different sizes, with crops, in the order given."""
    generator = SamAutomaticMaskGenerator(DiscSegmenter(), crop_n_layers=1, **SETTINGS)
    images = [blank(180, 250), blank(90, 90), blank(300, 200)]

    assert generator.generate_batch(images) == [generator.generate(image) for image in images]
    assert generator.generate_batch([]) == []


@pytest.mark.parametrize(("at_once", "batches"), [(1, [1] * 15), (4, [4, 4, 4, 3])])
def test_images_and_crops_are_encoded_together(
    at_once: int, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three images with five crops each, as many at once as suits the device; the records are the same."""
    images = [blank(180, 250), blank(90, 90), blank(300, 200)]
    model = RecordingSegmenter()
    generator = SamAutomaticMaskGenerator(model, crop_n_layers=1, **SETTINGS)
    expected = [generator.generate(image) for image in images]
    model.batches.clear()
    monkeypatch.setitem(finder_module.ENCODED_AT_ONCE, "cpu", at_once)

    assert generator.generate_batch(images) == expected
    assert model.batches == batches


class CrampedSegmenter(DiscSegmenter):
    """Has memory for so many images or prompts at once; says so as torch does without a type of its own."""

    def __init__(
        self, *, images: int = 99, prompts: int = 99, message: str = "can't allocate memory"
    ) -> None:
        super().__init__()
        self.images, self.prompts, self.message = images, prompts, message

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        if len(images) > self.images:
            raise RuntimeError(f"DefaultCPUAllocator: {self.message}: you tried to allocate 9 bytes")
        return super().encode(images)

    def decode(self, embedding: ImageEmbedding, **prompts: Any) -> tuple[Tensor, Tensor]:
        if len(prompts["point_coords"]) > self.prompts:
            raise RuntimeError(f"DefaultCPUAllocator: {self.message}: you tried to allocate 9 bytes")
        return super().decode(embedding, **prompts)


@pytest.mark.parametrize("message", ["can't allocate memory", "not enough memory", "out of memory"])
def test_fewer_prompts_are_decoded_where_memory_runs_out(
    message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Half as many until they fit, from then on; the masks are the same, and one warning says so."""
    expected = SamAutomaticMaskGenerator(DiscSegmenter(), **SETTINGS).generate(blank(180, 250))
    model = CrampedSegmenter(prompts=3, message=message)
    generator = SamAutomaticMaskGenerator(model, points_per_batch=12, **SETTINGS)
    with caplog.at_level(logging.WARNING):
        found = [generator.generate(blank(180, 250)) for _ in range(2)]

    assert found == [expected, expected]
    assert generator.points_per_batch == 3
    assert [record.getMessage() for record in caplog.records] == [
        "memory ran out: points_per_batch is 3 from now on"
    ]


def test_fewer_images_are_encoded_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In halves until they fit; the masks are the same."""
    monkeypatch.setitem(finder_module.ENCODED_AT_ONCE, "cpu", 8)
    images = [blank(180, 250), blank(90, 90), blank(300, 200)]
    expected = SamAutomaticMaskGenerator(DiscSegmenter(), **SETTINGS).generate_batch(images)

    assert (
        SamAutomaticMaskGenerator(CrampedSegmenter(images=1), **SETTINGS).generate_batch(images) == expected
    )


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (CrampedSegmenter(images=0), "to encode it at 250 x 180"),
        (CrampedSegmenter(prompts=0), "for its masks at 250 x 180"),
    ],
)
def test_no_memory_at_all_is_an_image_error(model: DiscSegmenter, what: str) -> None:
    """Its status is the one that the image's row gets; the settings stay as they were for the next image."""
    generator = SamAutomaticMaskGenerator(model, **SETTINGS)
    with pytest.raises(ImageError, match=what) as caught:
        generator.generate(blank(180, 250))

    assert caught.value.status is ImageStatus.OOM
    assert generator.points_per_batch == 64


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory() -> None:
    """They pass through."""
    generator = SamAutomaticMaskGenerator(CrampedSegmenter(prompts=3, message="no such thing"), **SETTINGS)

    with pytest.raises(RuntimeError, match="no such thing"):
        generator.generate(blank(180, 250))


@pytest.mark.parametrize("masks_at_once", [1, 2**40])
def test_memory_limit_does_not_change_the_result(masks_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upscaling three masks at a time or all together."""
    generator = SamAutomaticMaskGenerator(DiscSegmenter(), **SETTINGS)
    expected = generator.generate(blank(180, 250))
    monkeypatch.setattr(logits_module, "MAX_PIXELS_AT_ONCE", masks_at_once)

    assert generator.generate(blank(180, 250)) == expected
