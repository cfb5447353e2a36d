"""Windows of tokens."""

import pytest
import torch

from sam_engine.modeling.image_encoder import merge_windows, partition_windows


@pytest.mark.parametrize(("height", "width", "size"), [(64, 64, 14), (16, 16, 4), (5, 9, 7), (1, 1, 3)])
def test_merging_undoes_partitioning(height: int, width: int, size: int) -> None:
    """Every token comes back to its place, for sizes that need padding and for those that need none."""
    tokens = torch.arange(2 * height * width * 3).reshape(2, height, width, 3)
    windows = partition_windows(tokens, size)

    assert windows.shape == (2 * -(-height // size) * -(-width // size), size, size, 3)
    assert torch.equal(merge_windows(windows, size, (height, width)), tokens)


def test_padding_is_zeros_at_the_bottom_and_right() -> None:
    """The last window of a 3 x 3 map cut into 2 x 2 holds one token."""
    windows = partition_windows(torch.ones(1, 3, 3, 1), 2)

    assert windows[-1, :, :, 0].tolist() == [[1, 0], [0, 0]]
    assert windows.sum() == 9
