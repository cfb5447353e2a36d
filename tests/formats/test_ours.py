"""Our own datasets as sources: the images of the run, and masks as people left them."""

from pathlib import Path

import numpy as np
import pytest

from sam_engine.dataset.correction_log import CorrectionLog
from sam_engine.errors import ImageError, InputError
from sam_engine.formats.open import open_source
from sam_engine.ops.rle import encode_mask
from tests.helpers.drawn_data import assert_masks, draw, write_our_dataset


def test_a_dataset_is_read_with_its_originals(tmp_path: Path):
    """Masks come from the rows, pixels from the input of the run; images without masks are left out."""
    source = open_source(write_our_dataset(tmp_path, 4))

    assert [source.image_id(index) for index in range(len(source))] == [0, 1, 2]
    for index in (2, 0):
        pixels, masks = draw(index)
        found = source.read(index)
        np.testing.assert_array_equal(found.pixels, pixels)
        assert_masks(found, masks)


def test_the_images_of_a_dataset_may_have_moved(tmp_path: Path):
    """``images`` says where they are now; without it the missing input is named."""
    dataset = write_our_dataset(tmp_path, 2)
    (tmp_path / "photos").rename(tmp_path / "elsewhere")

    with pytest.raises(InputError, match="photos"):
        open_source(dataset)
    source = open_source(dataset, str(tmp_path / "elsewhere"))
    np.testing.assert_array_equal(source.read(0).pixels, draw(0)[0])


def test_an_image_that_changed_is_refused(tmp_path: Path):
    """Pixels that were not annotated are never paired with the masks."""
    dataset = write_our_dataset(tmp_path, 3)
    (tmp_path / "photos" / "0.png").write_bytes((tmp_path / "photos" / "1.png").read_bytes())

    with pytest.raises(ImageError, match="not those that were annotated"):
        open_source(dataset).read(0)


def test_corrections_are_applied(tmp_path: Path):
    """Training sees masks as people left them, also on an image on which the model found none."""
    dataset = write_our_dataset(tmp_path, 3)
    (_, rectangle), added = draw(0)[1], np.zeros((96, 96), bool)
    added[3:9, 4:30] = True
    log = CorrectionLog(dataset, by="Ada")
    log.delete(0, 0)
    log.add(2, (96, 96), encode_mask(added))
    source = open_source(dataset)

    assert_masks(source.read(0), [rectangle])
    assert_masks(source.read(2), [added])
    assert_masks(source.read(1), draw(1)[1])


def test_corrections_of_an_unknown_image_are_refused(tmp_path: Path):
    """A log that belongs to another dataset does not go unnoticed."""
    dataset = write_our_dataset(tmp_path, 2)
    log = CorrectionLog(dataset, by="Ada")
    log.accept(5)

    with pytest.raises(InputError, match="corrections of image 5, which was not annotated"):
        open_source(dataset)
