"""What an audit reports, of corrections made by hand whose IoUs are known."""

import json

import pytest

from sam_engine.dataset.audit import (
    SAMPLE,
    audit_report,
    draw_sample,
    read_missing,
    read_sample,
    say_missing,
)
from sam_engine.dataset.correction_log import CorrectionLog, read_corrections
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError, ShardError
from sam_engine.ops.rle import mask_to_runs, runs_to_counts
from tests.helpers.dataset_builder import failed, image, rectangle_mask, write_dataset
from tools import audit
from tools.command import run

SIZE = (24, 32)
IDS = [65536 * image_id + index for image_id in (0, 2) for index in (0, 1, 2)]
"""Of the masks of the images with some."""


def rectangle(w):
    return rectangle_mask(*SIZE, 2, 3, w, 10)


def counts_of(mask):
    return runs_to_counts(mask_to_runs(mask))


@pytest.fixture
def dataset(tmp_path):
    """Three masks of 100 pixels on the first and the third image, none on the fourth; the second failed."""
    masks = [rectangle(10)] * 3
    records = [image(0, b"a.jpg", masks), failed(1, b"b.jpg"), image(2, b"c.jpg", masks), image(3, b"d.jpg")]
    write_dataset(tmp_path / "out", records)
    return open_dataset(tmp_path / "out")


def path_of(dataset):
    return dataset.store.describe()


def report_of(dataset):
    return audit_report(dataset, read_sample(dataset), read_corrections(path_of(dataset)))


def test_a_sample_is_of_annotated_images_by_seed(dataset, tmp_path):
    """None that failed; the same seed draws the same again, another one is refused where one lies."""
    drawn = draw_sample(dataset, num_images=3, seed=4)

    assert sorted(drawn.image_ids) == [0, 2, 3]
    assert drawn.num_images == 3
    assert draw_sample(dataset, num_images=3, seed=4) == drawn == read_sample(dataset)
    with pytest.raises(ConfigError, match="has another sample"):
        draw_sample(dataset, num_images=2, seed=4)


@pytest.mark.parametrize("num_images", [0, 4])
def test_no_more_is_drawn_than_there_is(dataset, num_images):
    """The number that there is stands in the answer."""
    with pytest.raises(ConfigError, match="has 3 images to draw from"):
        draw_sample(dataset, num_images=num_images, seed=0)


def test_ious_are_those_of_what_people_left(dataset):
    """100 pixels become 80 and 95: IoU 0.8 and 0.95; one is accepted, one deleted."""
    draw_sample(dataset, num_images=3, seed=0)
    log = CorrectionLog(path_of(dataset), "Ada")
    log.replace(0, IDS[0], SIZE, counts_of(rectangle(8)))
    log.replace(
        2, IDS[3], SIZE, counts_of(rectangle_mask(*SIZE, 2, 3, 10, 10) & ~rectangle_mask(*SIZE, 2, 3, 1, 5))
    )
    log.accept(0, IDS[1])
    log.delete(2, IDS[4])
    report = report_of(dataset)

    assert report["masks"] == {
        "sampled": 6, "judged": 4, "left_as_they_were": 1, "corrected": 2, "deleted": 1
    }  # fmt: skip
    assert report["iou"]["pairs"] == 3
    assert report["iou"]["mean"] == pytest.approx((0.8 + 0.95 + 1) / 3, abs=1e-4)
    assert report["iou"]["median"] == 0.95
    assert report["iou"]["above"]["0.9"]["share"] == pytest.approx(2 / 3, abs=1e-4)
    assert report["iou"]["above"]["0.75"]["share"] == 1
    assert sum(report["iou"]["histogram"]["counts"]) == 3
    assert report["iou_of_corrected"]["pairs"] == 2
    assert report["images"]["judged"] == 0
    assert report["exhaustiveness"]["share_found"] is None
    assert report["people"] == ["Ada"]


def test_things_without_a_mask_are_those_drawn_and_those_counted(dataset):
    """Of an image that is judged, masks that nobody touched are right; the last count of an image holds."""
    draw_sample(dataset, num_images=3, seed=0)
    log = CorrectionLog(path_of(dataset), "Ada")
    log.add(0, SIZE, counts_of(rectangle(3)))
    log.accept(2)
    say_missing(dataset.store, image_id=0, count=7, by="Ada")
    say_missing(dataset.store, image_id=0, count=2, by="Ben")
    report = report_of(dataset)

    assert read_missing(dataset.store) == {0: 2}
    assert report["images"] == {"annotated": 3, "sampled": 3, "judged": 2}
    assert report["masks"]["left_as_they_were"] == 6
    assert report["exhaustiveness"] == {
        "found": 6, "missing": 3, "share_found": 0.6667, "complete_images": 1, "share_complete": 0.5
    }  # fmt: skip


def test_images_that_were_not_drawn_have_no_part(dataset):
    """Whatever was corrected there."""
    sample = draw_sample(dataset, num_images=1, seed=0)
    other = next(image_id for image_id in (0, 2) if image_id not in sample.image_ids)
    CorrectionLog(path_of(dataset), "Ada").delete(other, 65536 * other)

    assert report_of(dataset)["masks"]["deleted"] == 0


@pytest.mark.parametrize("count", [-1, 100_001, 1.5, True])
def test_a_count_that_is_none_is_refused(dataset, count):
    """And nothing is written."""
    with pytest.raises(ValueError, match="missing is"):
        say_missing(dataset.store, image_id=0, count=count, by="Ada")
    assert read_missing(dataset.store) == {}


def test_a_sample_of_another_dataset_is_refused(dataset):
    """Its ids mean other images."""
    draw_sample(dataset, num_images=1, seed=0)
    document = json.loads(dataset.store.read(SAMPLE))
    dataset.store.replace(SAMPLE, json.dumps(document | {"fingerprint": "f" * 64}).encode())

    with pytest.raises(ShardError, match="of another dataset"):
        read_sample(dataset)


def test_the_tool_draws_and_reports(dataset, capsys):
    """In sentences and as JSON; without a sample it says how to draw one."""
    assert run(audit.main, [path_of(dataset), "--report"]) == 2
    assert "draw one with --sample N" in capsys.readouterr().err
    assert run(audit.main, [path_of(dataset), "--sample", "3", "--seed", "1"]) == 0
    assert capsys.readouterr().out == "3 of 3 images were drawn\n"
    CorrectionLog(path_of(dataset), "Ada").replace(0, IDS[0], SIZE, counts_of(rectangle(8)))
    assert run(audit.main, [path_of(dataset), "--report"]) == 0
    assert "above 0.9: 0.0 % of 1 pairs" in capsys.readouterr().out
    assert run(audit.main, [path_of(dataset), "--report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iou"]["mean"] == 0.8
