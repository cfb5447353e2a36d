"""python -m tools.bench.viewer: a large dataset of rows, and what it takes to look at it."""

import json

import pytest

from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError
from tools.bench import viewer


@pytest.mark.slow
def test_its_rows_are_a_dataset(tmp_path, capsys, monkeypatch):
    """Every row follows the format, and the figures are of all of them."""
    monkeypatch.setattr(viewer, "NUM_SHAPES", 3)
    assert viewer.main(["--images", "1000", "--folder", str(tmp_path), "--json"]) == 0

    figures = json.loads(capsys.readouterr().out)
    records = list(open_dataset(tmp_path).checked_records())
    assert [record.image_id for record in records] == list(range(1000))
    assert (figures["images read"], figures["masks read"]) == (1000, 20_000)


def test_too_few_rows_are_refused():
    """A shard is the least."""
    with pytest.raises(ConfigError, match="at least 500"):
        viewer.main(["--images", "7"])
