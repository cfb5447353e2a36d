"""Every kind of source is told from its path, or refused by name."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from sam_engine.errors import InputError
from sam_engine.formats.open import open_source
from tests.helpers.drawn_data import (
    draw,
    rle,
    write_coco,
    write_our_dataset,
)


def test_sources_travel_to_other_processes(drawn_tar: Path, tmp_path: Path):
    """All kinds can be pickled."""
    coco = write_coco(tmp_path / "coco", [rle(draw(0)[1][0])])
    ours = write_our_dataset(tmp_path / "ours", 2)

    for source in (
        open_source(drawn_tar),
        open_source(coco, str(coco.parent / "images")),
        open_source(ours),
    ):
        copied = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(copied.read(0).pixels, source.read(0).pixels)


@pytest.mark.parametrize(
    ("make", "images", "message"),
    [
        (lambda path: None, None, "there is no such file or folder"),
        (lambda path: path.write_bytes(b"no tar"), None, "unknown kind"),
        (lambda path: path.mkdir(), None, r"holds no sa_<id>\.jpg"),
        (lambda path: path.mkdir(), "images", r"data\.images must be null"),
    ],
)
def test_what_is_no_source_is_named(tmp_path: Path, make, images, message: str):
    """The message has the path and says what would do."""
    make(tmp_path / "it")

    with pytest.raises(InputError, match=message) as caught:
        open_source(tmp_path / "it", images)
    assert str(tmp_path / "it") in str(caught.value)
