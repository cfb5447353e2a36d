"""python -m tools.stats: numbers, and a page that needs nothing else."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from sam_engine.dataset.correction_log import CorrectionLog
from sam_engine.dataset.reader import open_dataset
from tests.helpers.dataset_builder import sample_records, write_dataset
from tools import stats
from tools.command import run


@pytest.fixture
def data(tmp_path):
    """Five images and four masks, in a directory whose name is a page."""
    write_dataset(tmp_path / "<b>data", sample_records())
    return tmp_path / "<b>data"


def test_every_mask_is_in_a_bin_of_each_chart(data, capsys):
    """As a plain loop counts them."""
    assert run(stats.main, [str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    masks = [mask for record in open_dataset(data).records() for mask in record.annotations]

    assert (found["num_images"], found["num_masks"]) == (5, 4)
    assert found["statuses"] == {"corrupt": 1, "ok": 3, "ok_empty": 1}
    for key, values in {
        "side_share": [(mask.area / (24 * 32)) ** 0.5 for mask in masks],
        "predicted_iou": [mask.predicted_iou for mask in masks],
        "stability_score": [mask.stability_score for mask in masks],
    }.items():
        ends = [
            -np.inf if edge is None and not place else np.inf if edge is None else edge
            for place, edge in enumerate(found[key]["edges"])
        ]
        counted = [sum(low <= value < high for value in values) for low, high in pairwise(ends)]
        assert found[key]["counts"] == counted
    assert found["masks_an_image"]["counts"][:4] == [2, 2, 1, 0]
    assert np.sum(found["centres"]) == 4


def test_the_page_asks_for_nothing_and_holds_no_name_as_markup(data, tmp_path):
    """Drawings are inside; what is named like markup is text."""
    page = tmp_path / "report.html"
    assert run(stats.main, [str(data), "--html", str(page)]) == 0
    text = page.read_text()
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(text)

    assert [tag for tag, _ in tags].count("svg") == 5
    assert "b" not in {tag for tag, _ in tags}
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags}
    assert not any({"src", "href", "xlink:href"} & attributes.keys() for _, attributes in tags)
    assert not re.search(r"url\(|@import|https?:", text)


def test_a_report_is_not_overwritten(data, tmp_path, capsys):
    """Exit code 2."""
    (tmp_path / "report.html").write_text("mine")

    assert run(stats.main, [str(data), "--html", str(tmp_path / "report.html")]) == 2
    assert (tmp_path / "report.html").read_text() == "mine"


def test_corrections_are_not_counted_and_said(data, capsys):
    """Rows are counted as they are."""
    log = CorrectionLog(data, "Ada")
    log.delete(0, 0)

    assert run(stats.main, [str(data)]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("corrections of 1 images are not counted")
    assert printed.out.endswith("5 images (1 corrupt, 3 ok, 1 ok_empty), 4 masks\n")
