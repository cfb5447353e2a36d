"""Overlays: which images, and where the paint goes."""

import io

import numpy as np
import pytest
from PIL import Image

from sam_engine.dataset.previews import MAX_SIDE, choose_images, draw_masks
from sam_engine.dataset.shards import ShardSummary
from sam_engine.structures import ImageRecord, ImageStatus, Shard
from tests.helpers.dataset_builder import annotation


def summary(index, num_ok):
    shard = Shard(index=index, start=100 * index, stop=100 * index + 100)
    return ShardSummary(
        shard=shard, statuses={"ok": num_ok, "corrupt": 100 - num_ok}, num_masks=0, num_bytes=0
    )


def record_of(*masks):
    height, width = masks[0].shape
    annotations = tuple(annotation(mask) for mask in masks)
    return ImageRecord(
        image_id=0, path=b"a.png", status=ImageStatus.OK, width=width, height=height, annotations=annotations
    )


@pytest.mark.parametrize(
    ("numbers", "count", "expected"),
    [
        pytest.param([100], 1, {0: [50]}, id="the-middle"),
        pytest.param([100, 100], 4, {0: [25, 75], 1: [25, 75]}, id="spread-over-shards"),
        pytest.param([2, 0, 1], 8, {0: [0, 1], 2: [0]}, id="all-there-are"),
        pytest.param([0, 0], 3, {}, id="none-with-masks"),
        pytest.param([], 3, {}, id="no-shards"),
        pytest.param([5], 0, {}, id="none-asked-for"),
    ],
)
def test_images_are_spread_over_the_dataset(numbers, count, expected):
    """Only images with masks are counted; each is chosen once."""
    summaries = {index: summary(index, number) for index, number in enumerate(numbers)}

    assert choose_images(summaries, count) == expected


def test_paint_stays_inside_its_mask():
    """Pixels outside every mask keep their value; those inside take colour."""
    pixels = np.full((50, 80, 3), 100, np.uint8)
    mask = np.zeros((50, 80), bool)
    mask[10:30, 20:60] = True
    painted = draw_masks(pixels, record_of(mask))
    changed = (painted != pixels).any(axis=2)

    assert np.array_equal(changed, mask)


def test_small_mask_shows_on_a_large_one():
    """Whatever their order in the row, the smaller is drawn later, in another colour."""
    pixels = np.full((50, 80, 3), 100, np.uint8)
    large, small = np.ones((50, 80), bool), np.zeros((50, 80), bool)
    small[20:30, 30:40] = True
    painted = draw_masks(pixels, record_of(small, large)).astype(int)

    assert abs(painted[25, 35] - painted[5, 5]).max() > 40


def test_a_mask_is_painted_where_it_lies_when_scaled_down():
    """Half and a seventh of the size: the pixels whose middles it covers, and no others."""
    mask = np.random.default_rng(0).random((60, 80)) > 0.5
    mask[:, :9] = False
    for side in (40, 11):
        painted = draw_masks(np.full((60, 80, 3), 100, np.uint8), record_of(mask), side)
        h, w = painted.shape[:2]
        rows, columns = ((np.arange(n) + 0.5) * full / n for n, full in ((h, 60), (w, 80)))

        assert np.array_equal(
            (painted != 100).any(axis=2), mask[np.ix_(rows.astype(int), columns.astype(int))]
        )


def test_large_images_are_scaled_down():
    """A preview is to look at, not to measure: at most 1024 pixels, in the same proportions."""
    mask = np.zeros((1500, 3000), bool)
    mask[500:900, 1000:2000] = True

    assert draw_masks(np.zeros((1500, 3000, 3), np.uint8), record_of(mask)).shape == (
        MAX_SIDE // 2,
        MAX_SIDE,
        3,
    )


def test_preview_file_is_a_jpeg_of_the_images_size(tmp_path):
    """What a run writes opens in any viewer."""
    from pipelines.auto_annotate import run
    from tests.helpers import fakes

    fakes.write_images(tmp_path / "in", 1)
    run(
        fakes.run_settings(input=str(tmp_path / "in"), output=str(tmp_path / "out"), previews=1),
        fakes.make_disc_segmenter,
    )
    image = Image.open(io.BytesIO((tmp_path / "out/previews/000000000.jpg").read_bytes()))

    assert (image.format, image.size) == ("JPEG", (60, 40))
