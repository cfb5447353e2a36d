"""`show`: an image with its masks, for notebooks."""

from dataclasses import replace

import numpy as np
import pytest

import sam_engine
from sam_engine.dataset.previews import draw_masks
from sam_engine.errors import ConfigError
from sam_engine.web.pictures import Pictures


def test_an_image_is_found_by_id_and_by_name(dataset):
    """Both give the preview of its masks over its pixels."""
    record = next(record for record in dataset.records() if record.path == b"b.png")
    expected = draw_masks(Pictures(dataset).pixels(record), record)

    assert np.array_equal(np.asarray(sam_engine.show(dataset, record.image_id)), expected)
    assert np.array_equal(np.asarray(sam_engine.show(dataset.store.describe(), "b.png")), expected)


def test_a_record_may_have_lost_masks(dataset):
    """What is shown are the masks that it is given."""
    record = next(record for record in dataset.records() if record.path == b"b.png")
    bare = np.asarray(sam_engine.show(dataset, replace(record, annotations=())))

    assert np.array_equal(bare, Pictures(dataset).pixels(record))


@pytest.mark.parametrize("image", [99, "absent.png"])
def test_an_image_that_is_not_there_is_named(dataset, image):
    """One sentence with the dataset and the image."""
    with pytest.raises(ConfigError, match=f"has no image .*{image}"):
        sam_engine.show(dataset, image)
