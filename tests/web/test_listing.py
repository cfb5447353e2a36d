"""What grid and statistics are answered from."""

import dataclasses

import numpy as np
import pytest

from sam_engine.dataset.places import Places
from sam_engine.dataset.reader import open_dataset
from sam_engine.web.listing import Listing, Query
from tests.helpers.dataset_builder import failed, image, rectangle_mask, write_dataset
from tests.web.conftest import EVIL_NAME


def names(served, **query):
    """The file names that a query finds."""
    answer = served.viewer.images(Query(**query), 0, 200)
    return [entry["file_name"] for entry in answer["images"]]


def test_all_images_come_in_order_of_their_ids(served):
    """Without a question, the grid is the dataset."""
    assert names(served) == sorted(["a.png", "b.png", "c/d.png", EVIL_NAME, "z.png"], key=str.encode)


def test_search_ignores_case(served):
    """Part of a name in any case finds it."""
    assert names(served, text="B.PN") == ["b.png"]


def test_failures_can_be_asked_for(served):
    """`failed` stands for every status that is one."""
    assert names(served, statuses=frozenset({"failed"})) == ["z.png"]


def test_images_are_sorted_and_filtered_by_masks(served):
    """Descending by size of the image; those without masks are left out."""
    sizes = {row.path.decode(): row.height for row in served.dataset.records() if row.height}
    found = names(served, min_masks=1, order="pixels", descending=True)

    assert found == sorted(sizes, key=lambda name: -sizes[name])


def test_a_sample_has_every_image_once(served):
    """A random order is the same for the same seed."""
    first, again = names(served, sample=7), names(served, sample=7)

    assert first == again
    assert sorted(first) == sorted(names(served))


def test_pages_do_not_overlap(served):
    """Two pages are the beginning of the whole."""
    pages = [served.viewer.images(Query(), offset, 2)["images"] for offset in (0, 2)]

    assert [entry["image_id"] for page in pages for entry in page] == [0, 1, 2, 3]


def test_the_first_page_needs_no_listing(dataset):
    """Before anything has been read in the background, it comes from the shards it lies in."""
    from sam_engine.web.app import Viewer

    answer = Viewer(dataset).images(Query(), 1, 2)

    assert [entry["image_id"] for entry in answer["images"]] == [1, 2]
    assert answer["total"] == 5
    assert not answer["is_read"]


def test_each_image_is_found_by_its_id(served):
    """Shards are bisected; ids beyond the end are of no image."""
    records = {record.image_id: record for record in served.dataset.records()}

    assert {image_id: served.viewer.places.find(image_id) for image_id in range(5)} == records
    assert served.viewer.places.find(5) is None


def test_statistics_count_every_mask(served):
    """Each histogram of masks holds all of them, that of images all images."""
    found = served.viewer.statistics()
    num_masks = sum(len(record.annotations) for record in served.dataset.records())

    assert sum(found["masks_an_image"]["counts"]) == 5
    for measure in ("predicted_iou", "stability_score", "side_share"):
        assert sum(found[measure]["counts"]) == num_masks
    assert np.sum(found["centres"]) == num_masks


def test_mean_iou_is_that_of_plain_loops(served):
    """-1 where there is no mask."""
    expected = [
        np.mean([mask.predicted_iou for mask in record.annotations]) if record.annotations else -1
        for record in served.dataset.records()
    ]

    assert served.viewer.listing.images().mean_iou == pytest.approx(expected, abs=1e-6)


def test_a_shard_that_is_published_later_is_seen(tmp_path):
    """A viewer of a run that goes on shows what has come meanwhile; a damaged shard is named, not fatal."""
    records = [
        image(0, b"a.png", [rectangle_mask(24, 32, 2, 3, 4, 5)]),
        failed(1, b"b.png"),
        image(2, b"c.png"),
    ]
    write_dataset(tmp_path / "out", records, shard_size=1)
    shards = sorted((tmp_path / "out/annotations").iterdir())
    later, damaged = shards[1].read_bytes(), bytearray(shards[2].read_bytes())
    shards[1].unlink()
    damaged[len(damaged) // 2] ^= 255
    shards[2].write_bytes(damaged)
    dataset = open_dataset(tmp_path / "out")
    listing = Listing(dataset, Places(dataset))
    listing.look()
    before = listing.progress()
    shards[1].write_bytes(later)
    listing.look()
    after = listing.progress()

    assert (before.num_images, after.num_images) == (1, 2)
    assert [problem.count("shard-000002") for problem in after.problems] == [1]
    assert dataclasses.replace(after, problems=()).num_shards == 3
