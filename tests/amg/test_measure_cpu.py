"""The fast measurements equal the plain ones, bit for bit."""

import logging

import numpy as np
import pytest
import torch

from sam_engine.amg import bilinear, measure_cpu, pixel_loops
from sam_engine.amg import measure as plain
from sam_engine.amg.measure import MaskMeasures
from sam_engine.amg.packed_logits import PackedLogits
from tests.helpers.drawn_logits import SIZES, drawings, frame_of


def assert_same(fast: MaskMeasures, slow: MaskMeasures) -> None:
    for name in ("stability_score", "area", "boxes_xyxy"):
        assert getattr(fast, name).dtype == getattr(slow, name).dtype
        assert torch.equal(getattr(fast, name), getattr(slow, name))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("image_size", [128, 256])
@pytest.mark.parametrize(("threshold", "offset"), [(0.0, 1.0), (0.3, 0.0), (-0.7, 2.5)])
def test_measures(size: tuple[int, int], image_size: int, threshold: float, offset: float) -> None:
    """Stability, area and box of every kind of mask, in images of every shape."""
    logits, frame = drawings(image_size // 4, seed=sum(size)), frame_of(size, image_size)

    fast = measure_cpu.measure_masks(logits, frame, threshold, offset)

    assert_same(fast, plain.measure_masks(logits, frame, threshold, offset))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("image_size", [128, 256])
def test_runs(size: tuple[int, int], image_size: int) -> None:
    """Run lengths in an image that the masks' frame is a crop of."""
    logits, frame = drawings(image_size // 4, seed=sum(size)), frame_of(size, image_size)
    boxes = plain.measure_masks(logits, frame, 0.0, 1.0).boxes_xyxy
    image_size_around = (size[0] + 5, size[1] + 4)

    fast = measure_cpu.masks_to_runs(logits, frame, 0.0, boxes, (3, 2), image_size_around)

    slow = plain.masks_to_runs(logits, frame, 0.0, boxes, (3, 2), image_size_around)
    assert len(fast) == len(slow)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(fast, slow, strict=True))


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_scale_of_the_logits(scale: float) -> None:
    """What counts as close to a cut follows the size of the logits."""
    logits, frame = drawings(32, seed=0, scale=scale), frame_of((150, 201), 128)

    fast = measure_cpu.measure_masks(logits, frame, 0.0, 1.0)

    assert_same(fast, plain.measure_masks(logits, frame, 0.0, 1.0))


def test_the_networks_real_sizes() -> None:
    """A 1024 px model on an image of 1.5 megapixels."""
    logits, frame = drawings(256, seed=1)[:7], frame_of((1000, 1500), 1024)

    fast = measure_cpu.measure_masks(logits, frame, 0.0, 1.0)

    assert_same(fast, plain.measure_masks(logits, frame, 0.0, 1.0))


def test_no_masks() -> None:
    """An empty batch has empty measures of the same types."""
    logits, frame = torch.zeros(0, 32, 32), frame_of((50, 60), 128)

    assert_same(
        measure_cpu.measure_masks(logits, frame, 0.0, 1.0), plain.measure_masks(logits, frame, 0.0, 1.0)
    )
    assert (
        measure_cpu.masks_to_runs(logits, frame, 0.0, torch.zeros(0, 4, dtype=torch.int64), (0, 0), (50, 60))
        == []
    )


@pytest.mark.parametrize("min_stability", [0.02, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("offset", [1.0, 4.0])
def test_masks_that_cannot_be_stable_are_told_from_those_that_are(
    min_stability: float, offset: float
) -> None:
    """Of masks stable enough all measures are true, the others stay below; some of them are not evaluated."""
    logits, frame = torch.cat([drawings(64, 5), drawings(64, 6, scale=0.1)]), frame_of((600, 500), 256)
    expected = plain.measure_masks(logits, frame, 0.0, offset)
    found = measure_cpu.measure_masks(logits, frame, 0.0, offset, min_stability)

    stable = expected.stability_score >= min_stability
    assert stable.any()
    assert torch.equal(found.stability_score >= min_stability, stable)
    for name in ("stability_score", "area", "boxes_xyxy"):
        assert torch.equal(getattr(found, name)[stable], getattr(expected, name)[stable])
    assert not torch.equal(found.area, expected.area)


@pytest.mark.parametrize("size", [(97, 131), (300, 40), (600, 500)])
def test_single_pixels_are_torchs_to_the_last_bit(size: tuple[int, int]) -> None:
    """With all of them uncertain, pixels equal the upscaled map."""
    logits, frame = drawings(64, seed=2), frame_of(size, 256)
    geometry = bilinear.geometry_for(logits, frame)
    assert geometry is not None
    threes, cuts = logits[:12].unflatten(0, (-1, 3)), np.zeros(1, dtype=np.float32)
    columns = np.arange(size[1])
    upscaled = plain.upscale_logits(threes, 256, frame.input_size, size).flatten(0, 1)

    for mask in range(12):
        found = np.zeros(size, dtype=np.float32)
        for row in range(size[0]):
            pixel_loops._settle(
                logits[mask].numpy(), geometry, row, columns, cuts, np.float32(np.inf), found[row]
            )
        assert np.array_equal(found, upscaled[mask].numpy())


def test_unknown_rounding_takes_the_plain_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A torch that rounds in another way costs time, not correctness; a warning says so."""
    monkeypatch.setattr(bilinear, "_find_rounding", lambda *_: None)
    bilinear._geometry.cache_clear()
    logits, frame = drawings(32, seed=3), frame_of((77, 60), 128)
    with caplog.at_level(logging.WARNING):
        measures = measure_cpu.measure_masks(logits, frame, 0.0, 1.0)
    bilinear._geometry.cache_clear()

    assert_same(measures, plain.measure_masks(logits, frame, 0.0, 1.0))
    assert "slowly" in caplog.text


def test_other_dtypes_take_the_plain_way() -> None:
    """Double-precision models are measured at full resolution."""
    logits, frame = drawings(32, seed=3).double(), frame_of((77, 60), 128)

    assert bilinear.geometry_for(logits, frame) is None
    assert_same(
        measure_cpu.measure_masks(logits, frame, 0.0, 1.0), plain.measure_masks(logits, frame, 0.0, 1.0)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threshold", [0.0, 0.3, -5.0])
def test_kept_logits_draw_the_same_masks(size: tuple[int, int], threshold: float) -> None:
    """Packed and unpacked, every kind of mask has the same run lengths in images of every shape."""
    logits, frame = drawings(64, seed=sum(size)), frame_of(size, 256)
    boxes = plain.measure_masks(logits, frame, threshold, 1.0).boxes_xyxy
    kept = measure_cpu.keep_logits(logits, frame, threshold).stack(0, len(logits))

    drawn, expected = (
        measure_cpu.masks_to_runs(x, frame, threshold, boxes, (3, 2), (size[0] + 5, size[1] + 4))
        for x in (kept, logits)
    )
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(drawn, expected, strict=True))


def test_kept_logits_are_small() -> None:
    """A mask with an outline of ordinary length takes less than a sixth of its logits."""
    centres = torch.arange(256.0)
    distance = torch.sqrt((centres[:, None] - 100) ** 2 + (centres - 120) ** 2)
    logits, frame = (60 - distance)[None], frame_of((683, 1024), 1024)
    (packed,) = measure_cpu.keep_logits(logits, frame, 0.0).rows

    assert isinstance(packed, PackedLogits)
    assert packed.nbytes < logits.nbytes / 6


def test_kept_logits_are_indexed_like_a_tensor() -> None:
    """By bools and by numbers, in any order; what is not packed for want of a known rounding too."""
    logits, frame = drawings(32, seed=4), frame_of((77, 60), 128)
    chosen, numbers = torch.arange(14) % 3 == 1, torch.tensor([5, 5, 0])
    for kept in (
        measure_cpu.keep_logits(logits, frame, 0.0),
        measure_cpu.keep_logits(logits.double(), frame, 0.0),
    ):
        everything = kept.stack(0, 14)
        assert torch.equal(kept[chosen].stack(0, 5), everything[chosen])
        assert torch.equal(kept[numbers].stack(0, 3), everything[numbers])
    assert torch.equal(everything, logits.double())


def test_threads_do_not_matter() -> None:
    """With two threads, for which torch may choose other kernels, masks are those of one."""
    logits, frame = drawings(64, seed=5).repeat(2, 1, 1), frame_of((300, 400), 256)
    threads, results = torch.get_num_threads(), []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        try:
            measures = measure_cpu.measure_masks(logits, frame, 0.0, 1.0)
            kept = measure_cpu.keep_logits(logits, frame, 0.0).stack(0, len(logits))
            boxes = measures.boxes_xyxy
            runs = measure_cpu.masks_to_runs(logits, frame, 0.0, boxes, (0, 0), frame.original_size)
        finally:
            torch.set_num_threads(threads)
        results.append((measures, kept, runs))
    (measures, kept, runs), (measures_2, kept_2, runs_2) = results

    assert_same(measures_2, measures)
    assert torch.equal(kept_2, kept)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(runs_2, runs, strict=True))
