"""On a device, the generator finds the masks that it finds on a CPU, and waits twice for an image."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sam_engine.amg import draw_device, measure_device, queued_image
from sam_engine.amg.mask_finder import MaskFinder, batch_of
from sam_engine.automatic_mask_generator import SamAutomaticMaskGenerator
from sam_engine.config import AmgConfig
from sam_engine.errors import ImageError
from sam_engine.modeling.fast.decoder import suited_prompts
from tests.helpers import queued_device
from tests.helpers.fakes import DiscSegmenter, make_reduced_tiny
from tests.helpers.queued_device import QueuedSegmenter

Records = list[dict[str, Any]]


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def generate(model: Any, *images: NDArray[np.uint8], **settings: Any) -> list[Records]:
    generator = SamAutomaticMaskGenerator(model, output_mode="uncompressed_rle", **settings)
    return generator.generate_batch(images)


def on_both(*images: NDArray[np.uint8], **settings: Any) -> tuple[list[Records], list[Records], Any]:
    """Return the records of a CPU, those of a device, and what the device took note of."""
    with queued_device.watch() as events:
        ours = generate(QueuedSegmenter(DiscSegmenter()), *images, **settings)
    return generate(DiscSegmenter(), *images, **settings), ours, events


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (1, 1), (1, 300), (300, 200)])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"points_per_side": 4}, id="plain"),
        pytest.param({"points_per_side": 2, "crop_n_layers": 1}, id="crops"),
        pytest.param({"points_per_side": 5, "points_per_batch": 1}, id="groups"),
        pytest.param({"points_per_side": 4, "min_mask_region_area": 30}, id="clean-up"),
        pytest.param({"points_per_side": 3, "pred_iou_thresh": 2.0}, id="none-passes"),
        pytest.param({"points_per_side": 3, "pred_iou_thresh": 0, "max_mask_area_fraction": 0.1}, id="area"),
    ],
)
def test_records_of_a_device(size: tuple[int, int], settings: dict[str, Any]) -> None:
    """Run lengths, boxes, scores, points and their order are those of a CPU."""
    on_cpu, on_device, events = on_both(picture(*size), **settings)

    assert on_device == on_cpu
    assert events.waits == []


def test_prompts_that_are_given_on_a_device() -> None:
    """Points of a table instead of a grid: the masks of a CPU."""
    image, config = picture(97, 131), AmgConfig(prompts="-", stability_score_thresh=0)
    points = np.array([[20.0, 30.0], [100.5, 60.0], [5.0, 90.0]])
    with queued_device.watch() as events:
        ours = MaskFinder(QueuedSegmenter(DiscSegmenter()), config).find(image, points)
    on_cpu = MaskFinder(DiscSegmenter(), config).find(image, points)

    assert [(mask.point_coords, mask.box_xyxy, mask.runs.tolist()) for mask in ours] == [
        (mask.point_coords, mask.box_xyxy, mask.runs.tolist()) for mask in on_cpu
    ]
    assert (len(ours) > 3, len(events.reads)) == (True, 2)


def test_an_image_is_read_twice() -> None:
    """Once the measures of all its masks, once the outlines of those that are left."""
    _, [records], events = on_both(picture(97, 131), points_per_side=16)

    assert records
    assert len(events.reads) == 2
    assert events.reads[0] == (3 * 16**2, 10)


def test_images_of_a_batch_keep_their_masks() -> None:
    """Each is begun before the one before it is finished; with crops, all of an image's stay together."""
    images = [picture(40 + 10 * n, 60) for n in range(4)]
    on_cpu, on_device, _ = on_both(*images, points_per_side=2, crop_n_layers=1)

    assert on_device == on_cpu


@pytest.mark.parametrize("pred_iou_thresh", [-1.0, 1e-9])
def test_the_whole_model_waits_for_nothing_else(
    pred_iou_thresh: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From pixels to records, `tiny` is read twice and never waited for."""
    monkeypatch.setattr(measure_device, "OPEN_SHARE", 1.0)  # random weights draw noise
    monkeypatch.setattr(draw_device, "SPARE_CHANGES", 10_000)
    sam = make_reduced_tiny()
    torch.nn.init.ones_(sam.mask_decoder.iou_prediction_head.layers[-1].bias)  # some pass
    sam = queued_device.on_device(sam)
    settings = {"points_per_side": 4, "pred_iou_thresh": pred_iou_thresh, "stability_score_thresh": 0.0}
    with queued_device.watch() as events:
        [records] = generate(sam, picture(97, 131), **settings)

    assert records
    assert (len(events.reads), events.waits) == (2, [])


def test_long_outlines_are_measured_and_drawn_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the lists of fixed length are too short, the masks are the same; the log says so."""
    monkeypatch.setattr(measure_device, "MIN_OPEN", 0)
    monkeypatch.setattr(measure_device, "OPEN_SHARE", 0.001)
    monkeypatch.setattr(draw_device, "SPARE_CHANGES", 0)
    monkeypatch.setattr(draw_device, "CHANGES_PER_COLUMN", 1)
    with caplog.at_level(logging.INFO):
        on_cpu, on_device, events = on_both(picture(97, 131), points_per_side=4)

    assert on_device == on_cpu
    assert "measured again" in caplog.text
    assert "drawn again" in caplog.text
    assert (len(events.reads), events.waits) == (4, [])


class _Hungry(QueuedSegmenter):
    """Decodes no more than ``most`` prompts at once."""

    def __init__(self, most: int) -> None:
        super().__init__(DiscSegmenter())
        self.most = most

    def decode(self, embedding: Any, **prompts: Any) -> Any:
        if len(prompts["point_coords"]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().decode(embedding, **prompts)


def test_batches_on_a_device_are_halved(caplog: pytest.LogCaptureFixture) -> None:
    """Until they fit: with the same masks, remembered, and said once."""
    generator = SamAutomaticMaskGenerator(_Hungry(5), points_per_side=8, output_mode="uncompressed_rle")
    with queued_device.watch():
        records = generator.generate_batch([picture(97, 131)] * 2)

    assert records == generate(DiscSegmenter(), *[picture(97, 131)] * 2, points_per_side=8)
    assert generator.points_per_batch == 4
    assert caplog.text.count("points_per_batch is 4 from now on") == 1


@pytest.mark.parametrize("most", [100, 5])
def test_a_generator_remembers_what_fits_a_device(most: int) -> None:
    """Above the setting or below it: later images do not run out of memory once more."""
    model, refused = _Hungry(most), []
    model.prompts_at_once = 256  # type: ignore[attr-defined]
    decode = model.decode

    def counted(embedding: Any, **prompts: Any) -> Any:
        refused.append(len(prompts["point_coords"]) > most)
        return decode(embedding, **prompts)

    model.decode = counted  # type: ignore[method-assign]
    generator = SamAutomaticMaskGenerator(model, points_per_side=16, output_mode="uncompressed_rle")
    with queued_device.watch():
        first = generator.generate(picture(97, 131))
        at_first = sum(refused)
        second = generator.generate(picture(97, 131))

    assert first == second
    assert (at_first > 0, sum(refused)) == (True, at_first)


def test_measuring_again_takes_what_memory_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pixels at once where room for all blocks does not fit; the masks are the same."""
    monkeypatch.setattr(measure_device, "MIN_OPEN", 0)
    monkeypatch.setattr(measure_device, "OPEN_SHARE", 0.001)
    measure, asked = measure_device.measure_masks, []

    def hungry(*given: Any, pixels_at_once: int, **settings: Any) -> Any:
        if "open_share" in settings:
            asked.append(pixels_at_once)
            if pixels_at_once > 2**21:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(*given, pixels_at_once=pixels_at_once, **settings)

    monkeypatch.setattr(queued_image, "measure_masks", hungry)
    on_cpu, on_device, _ = on_both(picture(97, 131), points_per_side=4, points_per_batch=16)

    assert on_device == on_cpu
    assert asked == [2**23, 2**22, 2**21]


def test_a_device_decodes_more_at_once_than_a_cpu() -> None:
    """What suits it for the default setting, less in proportion to a smaller one; never less than it says."""
    model = QueuedSegmenter(DiscSegmenter())
    model.prompts_at_once = 500  # type: ignore[attr-defined]

    assert [batch_of(model, n) for n in (64, 16, 1, 100, 1000)] == [500, 125, 7, 500, 1000]
    assert batch_of(QueuedSegmenter(DiscSegmenter()), 64) == 64
    assert batch_of(make_reduced_tiny(), 64) == 64
    assert suited_prompts((64, 64), 256, torch.float16) == 256


def test_not_one_prompt_fits_the_device() -> None:
    """The image is to blame then."""
    with queued_device.watch(), pytest.raises(ImageError, match="no memory for its masks at 131 x 97 pixels"):
        generate(_Hungry(0), picture(97, 131), points_per_side=2)


@pytest.mark.parametrize("of", ["logits", "scores"])
def test_masks_that_are_not_finite_are_dropped_on_a_device(of: str, caplog: pytest.LogCaptureFixture) -> None:
    """As on a CPU: the others stay, and the log counts them."""

    class Broken(DiscSegmenter):
        def decode(self, embedding: Any, **prompts: Any) -> Any:
            logits, scores = (x.clone() for x in super().decode(embedding, **prompts))
            (logits if of == "logits" else scores)[0] = torch.nan
            return logits, scores

    with queued_device.watch():
        [records] = generate(QueuedSegmenter(Broken()), picture(97, 131), points_per_side=4)

    assert [records] == generate(Broken(), picture(97, 131), points_per_side=4)
    assert caplog.text.count("3 of 48 masks of crop [0, 0, 131, 97] are not finite") == 2


def test_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many prompts there are, no more than so many masks wait on the device; each group is read."""
    monkeypatch.setattr(queued_image, "MAX_PROMPTS_AT_ONCE", 10)
    on_cpu, on_device, events = on_both(picture(97, 131), points_per_side=5)

    assert on_device == on_cpu
    assert [shape for shape in events.reads if len(shape) == 2] == [(30, 10), (30, 10), (15, 10)]
