"""Which frames of a video are images, and when they are."""

import cv2
import numpy as np
import pytest

from sam_engine.annotation.preparation import prepare
from sam_engine.annotation.repair import repair_dataset
from sam_engine.annotation.run import annotate_dataset
from sam_engine.config import VideoConfig
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.run_info import RunInfo
from sam_engine.dataset.schema import RUN_INFO
from sam_engine.dataset.shards import shard_name
from sam_engine.errors import ConfigError, FingerprintError, InputError
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import ListingRules, sorted_files
from sam_engine.inputs.video import chosen_frames
from tests.helpers import fakes


def video_of(path, *, frames=12, rate_hz=10, fourcc="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*fourcc), rate_hz, (64, 48))
    for level in range(frames):
        writer.write(np.full((48, 64, 3), 20 * level, np.uint8))
    writer.release()
    return path


def listed(path, **video):
    files = sorted_files(open_input(str(path), ListingRules(video=VideoConfig(**video))))
    return [(int(file.path.rpartition(b"#")[2]), file.origin.frame_time_s) for file in files]


def run(tmp_path, **changes):
    settings = fakes.run_settings(
        input=str(tmp_path / "x.avi"), output=str(tmp_path / "out"), shard_size=4, **changes
    )
    return annotate_dataset(settings, make_model=fakes.make_disc_segmenter)


@pytest.mark.parametrize(("name", "fourcc"), [("x.avi", "MJPG"), ("x.mp4", "mp4v"), ("x.mkv", "MJPG")])
def test_every_frame_knows_its_time(tmp_path, name, fourcc):
    """In seconds from the start, as the container has it."""
    frames = listed(video_of(tmp_path / name, fourcc=fourcc))

    assert frames == [(frame, frame / 10) for frame in range(12)]


def test_every_fifth_frame_keeps_its_number_and_time(tmp_path):
    """The names are those that the frames have without the setting."""
    assert listed(video_of(tmp_path / "x.avi"), every=5) == [(0, 0.0), (5, 0.5), (10, 1.0)]


def test_a_rate_takes_frames_by_their_time(tmp_path):
    """Four a second of ten a second: the first at or after 0, 0.25, 0.5, 0.75 and 1 second."""
    assert [frame for frame, _ in listed(video_of(tmp_path / "x.avi"), rate_hz=4)] == [0, 3, 5, 8, 10]


def test_a_rate_follows_time_stamps_and_not_numbers():
    """Of a video of changing rate a frame of each second is taken, and a gap is a gap."""
    times = [0.0, 0.5, 1.0, 1.01, 1.02, 1.03, 2.0, 5.4, 5.9, 6.0]

    assert chosen_frames(times, VideoConfig(rate_hz=1)) == [0, 2, 6, 7, 9]


def test_a_rate_above_that_of_the_video_takes_every_frame_once():
    """None is doubled."""
    assert chosen_frames([0.0, 0.1, 0.2], VideoConfig(rate_hz=1000)) == [0, 1, 2]


def test_a_rate_needs_time_stamps():
    """Nothing is guessed."""
    with pytest.raises(InputError, match=r"no time stamps; take video\.every"):
        chosen_frames([None, None], VideoConfig(rate_hz=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, r"video\.every must be at least 1, got 0"),
        ({"every": 1.5}, r"video\.every must be an int"),
        ({"rate_hz": 0}, r"video\.rate_hz must be above 0"),
        ({"rate_hz": float("inf")}, r"video\.rate_hz must be above 0 and finite"),
        ({"every": 2, "rate_hz": 1}, r"video\.every must be left out with video\.rate_hz"),
    ],
)
def test_settings_are_checked(settings, message):
    """By type and range."""
    with pytest.raises(ConfigError, match=message):
        VideoConfig(**settings)


def test_rows_have_the_time_of_their_frame(tmp_path):
    """Of the frames that were chosen, and of no others."""
    video_of(tmp_path / "x.avi")
    run(tmp_path, video__every=2)
    records = list(open_dataset(tmp_path / "out").records())

    assert [record.frame_time_s for record in records] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert [record.path for record in records] == [b"x.avi#%06d" % frame for frame in range(0, 12, 2)]


def test_other_frames_are_another_dataset(tmp_path):
    """An output that was begun with other frames is refused, and the setting is named."""
    video_of(tmp_path / "x.avi")
    run(tmp_path, video__every=2)

    with pytest.raises(FingerprintError, match=r"video\.every is 2 there and 3 here"):
        run(tmp_path, video__every=3)


def test_frames_chosen_where_there_is_no_video_are_refused(tmp_path):
    """A setting that would change nothing is not passed over."""
    fakes.write_images(tmp_path / "in", 1)
    settings = fakes.run_settings(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), video__rate_hz=1.0
    )

    with pytest.raises(ConfigError, match=r"video\.\* chooses frames of videos"):
        prepare(settings)


def test_repaired_and_resumed_shards_have_the_same_columns(tmp_path):
    """The dataset's manifest knows the times: shards made again are byte-identical."""
    video_of(tmp_path / "x.avi")
    run(tmp_path, video__every=2)
    before = fakes.shard_bytes(tmp_path / "out")
    damaged = tmp_path / "out" / shard_name(1)
    damaged.write_bytes(damaged.read_bytes()[:-9])
    repair_dataset(open_dataset(tmp_path / "out"), make_model=fakes.make_disc_segmenter)

    assert fakes.shard_bytes(tmp_path / "out") == before


def test_a_dataset_of_files_has_no_such_column(tmp_path):
    """Its settings and its selection say nothing of video or of optional columns, as ever."""
    fakes.write_images(tmp_path / "in", 2)
    settings = fakes.run_settings(input=str(tmp_path / "in"), output=str(tmp_path / "out"))
    annotate_dataset(settings, make_model=fakes.make_disc_segmenter)
    info = RunInfo.from_json((tmp_path / "out" / RUN_INFO).read_bytes())

    assert "extras" not in info.settings
    assert set(info.selection) == {"input", "limit", "sample", "seed"}
