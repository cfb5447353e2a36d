"""The dataset for torch: what its rows are, in this process and in workers."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from sam_engine.dataset.correction_log import CorrectionLog
from sam_engine.dataset.reader import open_dataset
from sam_engine.formats.torch_dataset import ImagesWithMasks
from sam_engine.ops.rle import decode_counts
from tests.helpers.drawn_data import draw, write_our_dataset


@pytest.fixture
def root(tmp_path):
    """Three images, of which the last has no masks."""
    return write_our_dataset(tmp_path, 3)


def test_rows_are_pixels_and_masks(root):
    """Of every image that has masks, as they were annotated."""
    rows = ImagesWithMasks(root)
    records = list(open_dataset(root).records())

    assert len(rows) == 2
    for number in range(2):
        row, record = rows[number], records[number]
        assert (row["image_id"], row["image"].dtype, row["masks"].dtype) == (number, torch.uint8, torch.bool)
        assert np.array_equal(row["image"].permute(1, 2, 0), draw(number)[0])
        masks = [decode_counts(mask.counts, mask.size) for mask in record.annotations]
        assert np.array_equal(row["masks"], masks)


def test_an_image_of_which_all_masks_were_deleted_has_none(root):
    """Its masks are (0, H, W), as people left them."""
    log = CorrectionLog(root, "ann")
    for mask in range(2):
        log.delete(0, mask)

    assert ImagesWithMasks(root)[0]["masks"].shape == (0, 96, 96)
    assert ImagesWithMasks(root, corrections="ignore")[0]["masks"].shape == (2, 96, 96)


def test_a_loader_ends(root):
    """A sequence without its IndexError would be read for ever; a copy in a worker is the same."""
    rows = pickle.loads(pickle.dumps(ImagesWithMasks(root)))

    assert [row["image_id"] for row in DataLoader(rows, batch_size=None)] == [0, 1]
    assert len(list(rows)) == 2
    with pytest.raises(IndexError, match="image -1 of 2"):
        rows[-1]


def test_opening_needs_no_torch():
    """It is imported with the first row."""
    code = "import sys, sam_engine.formats.torch_dataset; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
