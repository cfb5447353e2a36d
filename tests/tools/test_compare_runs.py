"""``python -m tools.compare_runs``."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.dataset_builder import annotation, image, sample_records, write_dataset
from tools.command import run
from tools.compare_runs import main


def disc(radius):
    rows, columns = np.mgrid[:64, :64]
    return (rows - 32) ** 2 + (columns - 32) ** 2 <= radius**2


def test_a_dataset_equals_its_copy(tmp_path, capsys):
    """Everything is identical and the exit code is 0, also where all is required."""
    for name in ("a", "b"):
        write_dataset(tmp_path / name, sample_records())

    code = run(main, [str(tmp_path / "a"), str(tmp_path / "b"), "--require", "1", "--json"])

    result = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (result["num_images"], result["num_first"], result["num_identical"]) == (5, 4, 4)
    assert result["unexplained"] == []


def test_a_dataset_with_other_masks_fails_what_is_required(tmp_path, capsys):
    """One disc of two has grown by a pixel: half of the masks have a counterpart; the others are named."""
    first = [image(0, b"a.jpg", [disc(20)], size=(64, 64)), image(1, b"b.jpg", [disc(9)], size=(64, 64))]
    grown = replace(annotation(disc(10)), point_coords=first[1].annotations[0].point_coords)
    second = [first[0], replace(first[1], annotations=(grown,))]
    write_dataset(tmp_path / "a", first)
    write_dataset(tmp_path / "b", second)

    code = run(main, [str(tmp_path / "a"), str(tmp_path / "b"), "--require", "0.999"])

    out = capsys.readouterr().out
    assert code == 1
    assert "identical        50.0000%" in out
    assert "no counterpart   2, of which 2 unexplained" in out
    assert "unexplained      image 1: mask 0 of dataset 1, IoU 0.7981 with the nearest" in out


@pytest.mark.parametrize(("threshold", "code"), [(0.9495, 0), (0.9, 1)])
def test_unexplained_differences_fail_where_all_must_be_explained(tmp_path, capsys, threshold, code):
    """A mask of predicted IoU 0.95 is missing: the first run's threshold says whether that is borderline."""
    first = [image(0, b"a.jpg", [disc(20)], size=(64, 64))]
    settings = {"amg.pred_iou_thresh": threshold}
    write_dataset(tmp_path / "a", first, settings=settings)
    write_dataset(tmp_path / "b", [image(0, b"a.jpg", size=(64, 64))])

    assert run(main, [str(tmp_path / "a"), str(tmp_path / "b"), "--explained"]) == code
    assert f"no counterpart   1, of which {code} unexplained" in capsys.readouterr().out


@pytest.mark.parametrize("other", ["missing", "other images"])
def test_what_cannot_be_compared_is_one_line(tmp_path, capsys, other):
    """No dataset, or one of other images."""
    write_dataset(tmp_path / "a", sample_records())
    write_dataset(
        tmp_path / "other images", [replace(record, path=b"x" + record.path) for record in sample_records()]
    )

    code = run(main, [str(tmp_path / "a"), str(tmp_path / other)])

    assert code in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1
