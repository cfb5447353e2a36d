"""python -m tools.bench.growth: time against points and pixels."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tools.bench.growth import HEIGHT, MARGIN, WIDTH, describe, draw, fit, main


def test_times_on_a_line_leave_nothing_over() -> None:
    """2 s, and 3 ms for each point."""
    growth = fit("points", [64, 256, 1024], [2 + 0.003 * n for n in (64, 256, 1024)], [1, 2, 3])

    assert growth.at_zero_s == pytest.approx(2)
    assert growth.slope_s == pytest.approx(0.003)
    assert growth.largest_error == pytest.approx(0, abs=1e-12)
    assert "2 s + 3 ms x points" in describe([growth])
    assert "| 256 | 2.77 | 2 |" in describe([growth])


def test_what_is_not_linear_is_far_from_the_line() -> None:
    """Squares of 0, 1 and 2: the line is 2 x - 1/3, and 1/3 and 2/3 off; the largest time is 4."""
    assert fit("points", [0, 1, 2], [0, 1, 4], [0, 0, 0]).largest_error == pytest.approx(2 / 3 / 4)


def test_points_are_drawn_where_they_belong() -> None:
    """The largest value is at the right end of its chart, and the largest time at its top."""
    growth = fit("points", [50, 100], [1, 2], [0, 0])
    root = ElementTree.fromstring(draw([growth, growth]))
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter() if c.tag.endswith("circle")]
    right, middle = WIDTH - MARGIN / 2, (MARGIN + WIDTH - MARGIN / 2) / 2
    top, half = MARGIN / 2, (HEIGHT - MARGIN / 2) / 2

    assert circles[:2] == [(middle, half), (right, top)]
    assert circles[2:] == [(middle + WIDTH, half), (right + WIDTH, top)]


@pytest.mark.slow
def test_two_tables_and_a_drawing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a photo of one's own, in its own shape."""
    noise = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    command = ["--image", str(tmp_path / "a.png"), "--grids", "1", "2", "--megapixels", "0.01", "0.02"]
    code = main([*command, "--repeats", "1", "--svg", str(tmp_path / "growth.svg"), "--json"])
    points, pixels = json.loads(capsys.readouterr().out)

    assert code == 0
    assert (points["quantity"], points["values"]) == ("points", [1.0, 4.0])
    assert (pixels["quantity"], pixels["values"]) == ("megapixels", [0.01, 0.02])
    assert min(*points["seconds"], *pixels["seconds"]) > 0
    assert len(pixels["num_masks"]) == 2
    assert ElementTree.parse(tmp_path / "growth.svg").getroot().tag.endswith("svg")
