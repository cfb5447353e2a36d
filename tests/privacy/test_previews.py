"""Previews of a run: what privacy.* says is not to be recognised in them, whenever they were drawn."""

import numpy as np
import pytest
from PIL import Image

from pipelines.auto_annotate import COMMAND
from pipelines.config import load
from sam_engine.annotation.preparation import prepare
from sam_engine.config import PrivacyConfig
from sam_engine.errors import ConfigError
from sam_engine.privacy.open import open_blur
from tests.helpers import fakes
from tests.helpers.annotating import annotate

BOX_XYWH = (16.0, 16.0, 32.0, 24.0)
SLACK_PX = 24
"""Around a region: margin, blocks of JPEG, and chroma of half the size."""


@pytest.fixture
def photos(tmp_path):
    """Two images, 96 x 128 (H, W): stripes where the box is, so that much changes."""
    (tmp_path / "in").mkdir()
    pixels = np.full((96, 128, 3), 128, np.uint8)
    pixels[10:45:4, 10:60] = 0
    pixels[12:45:4, 10:60] = 255
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    (tmp_path / "boxes.csv").write_text("file_name,x,y,width,height\na.png,16,16,32,24\n")
    return tmp_path / "in"


def pictures(output):
    paths = sorted((output / "previews").iterdir())
    return {path.stem: np.asarray(Image.open(path)).astype(int) for path in paths}


def boxes(photos):
    return {"privacy__blur": "boxes", "privacy__boxes": str(photos.parent / "boxes.csv")}


def contrast(region):
    """The white stripes, every fourth row from the first on, less the black ones."""
    return region[0::4].mean() - region[2::4].mean()


def assert_blurred(picture, plain):
    """The stripes are gone, whatever masks are over them; beside them nothing changed."""
    x, y, width, height = (int(value) for value in BOX_XYWH)
    assert contrast(plain[y : y + height, x : x + width]) > 30
    assert contrast(picture[y : y + height, x : x + width]) < 5
    assert np.array_equal(picture[:, x + width + SLACK_PX :], plain[:, x + width + SLACK_PX :])


def test_previews_are_blurred(photos, tmp_path):
    """In the image that the table names; the other one's preview is as ever, and so are the shards."""
    assert annotate(photos, tmp_path / "plain", previews=2) == 0
    assert annotate(photos, tmp_path / "out", previews=2, **boxes(photos)) == 0
    plain, blurred = pictures(tmp_path / "plain"), pictures(tmp_path / "out")

    assert_blurred(blurred["000000000"], plain["000000000"])
    assert np.array_equal(blurred["000000001"], plain["000000001"])
    assert fakes.shard_bytes(tmp_path / "out") == fakes.shard_bytes(tmp_path / "plain")


def test_previews_of_a_finished_dataset_are_drawn_anew(photos, tmp_path):
    """The same command with privacy.blur hides what an earlier run has shown; nothing else is made."""
    annotate(photos, tmp_path / "out", previews=2)
    plain = pictures(tmp_path / "out")
    report = (tmp_path / "out/_meta/report.json").read_bytes()

    assert annotate(photos, tmp_path / "out", previews=2, **boxes(photos)) == 0
    assert_blurred(pictures(tmp_path / "out")["000000000"], plain["000000000"])
    assert (tmp_path / "out/_meta/report.json").read_bytes() == report


def test_previews_that_are_not_drawn_anew_show_nothing(photos, tmp_path):
    """Fewer are wanted now, or an image is gone: an even grey stands where an earlier run has shown it."""
    annotate(photos, tmp_path / "out", previews=2)
    plain = pictures(tmp_path / "out")
    (photos / "a.png").write_bytes(b"gone")

    assert annotate(photos, tmp_path / "out", previews=2, **boxes(photos)) == 0
    left = pictures(tmp_path / "out")
    assert np.ptp(plain["000000000"]) > 200
    assert np.ptp(left["000000000"]) == 0
    assert np.array_equal(left["000000001"], plain["000000001"])


def test_a_box_outside_of_its_image_leaves_its_preview_out(photos, tmp_path, capsys):
    """The dataset is finished all the same, and a warning names the box."""
    (tmp_path / "boxes.csv").write_text("file_name,x,y,width,height\na.png,500,16,32,24\n")

    assert annotate(photos, tmp_path / "out", previews=2, **boxes(photos)) == 0
    assert list(pictures(tmp_path / "out")) == ["000000001"]
    assert "no preview of image 0: boxes: " in capsys.readouterr().err


def test_a_bad_table_stops_a_run_before_it_starts(photos, tmp_path):
    """Nothing was written."""
    (tmp_path / "boxes.csv").write_text("file_name,x,y,width,height\nz.png,1,16,32,24\n")
    config = fakes.run_settings(input=str(photos), output=str(tmp_path / "out"), **boxes(photos))

    with pytest.raises(ConfigError, match=r"none of its 1 names is an image of the dataset.* is z\.png"):
        prepare(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blur": "plates"}, "privacy.blur must be one of none, boxes, faces, got 'plates'"),
        ({"blur": "boxes"}, "privacy.boxes must be given with privacy.blur=boxes, and only then, got None"),
        (
            {"boxes": "b.csv"},
            "privacy.boxes must be given with privacy.blur=boxes, and only then, got 'b.csv'",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    """The message names the setting."""
    with pytest.raises(ConfigError) as refused:
        open_blur(PrivacyConfig(**settings))

    assert str(refused.value) == message


def test_both_settings_may_come_from_a_command_line():
    """The table is a path, and paths are put in last: neither order is refused."""
    for given in (
        ["privacy.blur=boxes", "privacy.boxes=b.csv"],
        ["privacy.boxes=b.csv", "privacy.blur=boxes"],
    ):
        config = load(COMMAND, given)

        assert (config.privacy.blur, config.privacy.boxes) == ("boxes", "b.csv")
