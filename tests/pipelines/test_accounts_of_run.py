"""What a run says of its images: rows, failures, report, and its last lines."""

import json
import platform
import shlex
import sys
from datetime import UTC, datetime

import pytest

from sam_engine.dataset.reader import open_dataset
from tests.helpers import fakes
from tests.helpers.annotating import annotate, read_json

BROKEN = {"005.png": b"", "017.png": b"<html>404</html>", "030.png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"}


@pytest.fixture
def forty(tmp_path):
    """Forty files of which three are no images."""
    folder = fakes.write_images(tmp_path / "in", 40)
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    return folder


def test_forty_files_are_forty_rows(forty, tmp_path):
    """Three broken files of forty are rows, and more than one in twenty: exit 3 after writing everything."""
    code = annotate(forty, tmp_path / "out", shard_size=16)
    rows = list(open_dataset(tmp_path / "out").records())

    assert code == 3
    assert [row.path.decode() for row in rows] == sorted(path.name for path in forty.iterdir())
    assert {row.path.decode() for row in rows if row.status.is_failure} == set(BROKEN)
    assert (tmp_path / "out" / "_SUCCESS.json").exists()


def test_allowed_failures_are_exit_0(forty, tmp_path):
    """The same run is fine for who allows one in ten; it is not done again for that."""
    annotate(forty, tmp_path / "out")
    before = fakes.shard_bytes(tmp_path / "out")

    assert annotate(forty, tmp_path / "out", max_failed_fraction=0.1) == 0
    assert fakes.shard_bytes(tmp_path / "out") == before


def test_errors_are_listed_by_reason(forty, tmp_path):
    """One JSON line for each failed image, and the counts in the report."""
    annotate(forty, tmp_path / "out", shard_size=16)
    lines = [json.loads(line) for line in (tmp_path / "out/_meta/errors.jsonl").read_text().splitlines()]
    report = read_json(tmp_path / "out", "_meta/report.json")

    assert [(line["image_id"], line["file_name"], line["status"]) for line in lines] == [
        (5, "005.png", "unsupported"),
        (17, "017.png", "unsupported"),
        (30, "030.png", "truncated"),
    ]
    assert all(line["error"] for line in lines)
    assert report["statuses"] == {"ok": 37, "truncated": 1, "unsupported": 2}
    assert (report["num_images"], report["num_failed"], report["complete"]) == (40, 3, True)


def test_report_says_when_where_and_by_which_command(tmp_path):
    """Who finds a dataset can tell how it was made."""
    fakes.write_images(tmp_path / "in", 1)
    annotate(tmp_path / "in", tmp_path / "out")
    report = read_json(tmp_path / "out", "_meta/report.json")
    age = datetime.now(UTC) - datetime.fromisoformat(report["written"])

    assert abs(age.total_seconds()) < 600
    assert report["host"] == platform.node()
    assert report["command"] == shlex.join(sys.orig_argv)


def test_report_says_what_was_done_with_what(tmp_path):
    """Counts, times, versions and all settings."""
    fakes.write_images(tmp_path / "in", 5)
    annotate(tmp_path / "in", tmp_path / "out", shard_size=2)
    report = read_json(tmp_path / "out", "_meta/report.json")

    assert (report["session"]["num_images"], report["session"]["num_shards"]) == (5, 3)
    assert report["session"]["devices"] == {"cpu": 3}
    assert report["session"]["images_per_second"] > 0
    assert set(report["session"]["stage_seconds"]) == {"generate", "publish", "wait_for_image"}
    assert {"python", "torch", "pyarrow"} <= report["versions"].keys()
    assert report["config"]["amg"]["points_per_side"] == 2
    assert report["num_masks"] == open_dataset(tmp_path / "out").num_masks


def test_end_of_run_says_what_was_made(tmp_path, capsys):
    """Images, masks, failures, speed, and where things lie; the log stays on stderr."""
    fakes.write_images(tmp_path / "in", 3)
    annotate(tmp_path / "in", tmp_path / "out", previews=2)
    printed = capsys.readouterr().out.splitlines()

    assert [line.split()[0] for line in printed] == [
        "images", "masks", "failures", "speed", "dataset", "previews",
    ]  # fmt: skip
    assert printed[0] == "images    3 of 3"
    assert printed[4:] == [f"dataset   {tmp_path}/out", f"previews  {tmp_path}/out/previews/"]


def test_end_of_run_names_the_setting_that_lets_damage_through(forty, tmp_path, capsys):
    """Where files failed as damaged, the last lines name decode.strict=false; not to who has set it."""
    annotate(forty, tmp_path / "out")
    told = capsys.readouterr().out
    annotate(forty, tmp_path / "lenient", decode__strict=False)

    assert "damaged   decode.strict=false" in told
    assert "decode.strict=false" not in capsys.readouterr().out
