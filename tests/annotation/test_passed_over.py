"""What a listing passes over is said in the report and on the card, and does not fail a run."""

import json
import os
import tarfile

import pytest

from pipelines.auto_annotate import run
from sam_engine.errors import InputError
from tests.helpers import fakes


def test_kinds_of_image_that_are_not_read_do_not_fail_a_run(tmp_path):
    """They have rows; the rest is counted in report and card, and nothing counts as damage."""
    folder = tmp_path / "in"
    folder.mkdir()
    fakes.write_image(folder / "a.png")
    (folder / "b.psd").write_bytes(b"8BPS" + bytes(100))
    (folder / "c.txt").write_text("no image")
    code = run(fakes.run_settings(input=str(folder), output=str(tmp_path / "out")), fakes.make_disc_segmenter)
    report = json.loads((tmp_path / "out" / "_meta" / "report.json").read_text())

    assert code == 0
    assert report["statuses"] == {"ok": 1, "unsupported": 1}
    assert report["input_left_out"] == {"other files (.txt)": 1}
    assert "1 other files (.txt)" in (tmp_path / "out" / "README.md").read_text()


def test_what_is_no_image_fails_a_run(tmp_path):
    """Pointers of Git LFS under the names of images are not let pass as one more kind of image."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")

    assert (
        run(fakes.run_settings(input=str(folder), output=str(tmp_path / "out")), fakes.make_disc_segmenter)
        == 3
    )


def test_a_cut_tar_stops_a_run_before_it_makes_anything(tmp_path):
    """Unless its whole images are asked for, and then report and card say that it was cut."""
    fakes.write_image(tmp_path / "a.png")
    with tarfile.open(tmp_path / "in.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(tmp_path / "a.png", "a.png")
    os.truncate(tmp_path / "in.tar", 512 + -(-(tmp_path / "a.png").stat().st_size // 512) * 512)
    settings = {"input": str(tmp_path / "in.tar"), "output": str(tmp_path / "out")}
    with pytest.raises(InputError, match="the end of the archive is missing"):
        run(fakes.run_settings(**settings), fakes.make_disc_segmenter)
    was_made = (tmp_path / "out").exists()
    code = run(fakes.run_settings(**settings, input_incomplete="accept"), fakes.make_disc_segmenter)
    [problem] = json.loads((tmp_path / "out" / "_meta" / "report.json").read_text())["input_incomplete"]

    assert not was_made
    assert code == 0
    assert "the end of the archive is missing" in problem
    assert "the end of the archive is missing" in (tmp_path / "out" / "README.md").read_text()
