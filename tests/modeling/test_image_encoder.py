"""Windows of tokens, and attention in blocks against the plain formula."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sam_engine.modeling.image_encoder import Attention, attend, window_partition, window_unpartition

ROWS, COLUMNS = 5, 3
BYTES_PER_ROW = COLUMNS * ROWS * COLUMNS * 8
"""Of the bias of a row of queries, in float64."""
BLOCK_BYTES = {
    "everything at once": 1 << 20,
    "two heads of three": 2 * ROWS * BYTES_PER_ROW,
    "a head": ROWS * BYTES_PER_ROW,
    "two rows of five": 2 * BYTES_PER_ROW,
    "a row, which is more than fits": 1,
}


def plain_attention(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor) -> Tensor:
    """Return what `attend` does, by its formula, with the bias of all queries and keys."""
    table = (table_h[:, None, :, None] + table_w[None, :, None, :]).flatten(2, 3).flatten(0, 1)
    bias = (q[:, :, None] * table).sum(3)
    return (q @ k.transpose(1, 2) / q.shape[2] ** 0.5 + bias).softmax(2) @ v


def make_inputs() -> list[Tensor]:
    """Return q, k, v and both tables for three heads, in float64, with gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, ROWS * COLUMNS, 4)] * 3 + [(ROWS, ROWS, 4), (COLUMNS, COLUMNS, 4)]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [x.requires_grad_() for x in made]


def make_attention(size: int) -> Attention:
    """Return attention of two heads of 4 channels, with every parameter random, in float64."""
    attention = Attention(8, 2, use_rel_pos=True, input_size=(size, size)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return attention


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES.values(), ids=BLOCK_BYTES)
def test_attention_in_blocks_is_the_plain_formula(block_bytes: int) -> None:
    """Blocks of heads, of a head's rows, and a last block that is smaller all give the formula's values."""
    inputs = make_inputs()

    torch.testing.assert_close(
        attend(*inputs, block_bytes=block_bytes), plain_attention(*inputs), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES.values(), ids=BLOCK_BYTES)
def test_gradients_of_attention_in_blocks_are_the_plain_formulas(block_bytes: int) -> None:
    """Training through blocks gives every input, the tables among them, the formula's gradient."""
    inputs = make_inputs()
    weight = torch.arange(4, dtype=torch.float64) - 1
    got = torch.autograd.grad((attend(*inputs, block_bytes=block_bytes) * weight).sum(), inputs)
    expected = torch.autograd.grad((plain_attention(*inputs) * weight).sum(), inputs)

    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Records the bytes of the largest tensor that any operation returns."""

    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Run ``func`` and look at what it returns."""
        outputs = func(*args, **(kwargs or {}))
        for x in outputs if isinstance(outputs, tuple) else (outputs,):
            if isinstance(x, Tensor):
                self.num_bytes = max(self.num_bytes, x.untyped_storage().nbytes())
        return outputs


@torch.no_grad()
def test_attention_in_blocks_holds_no_bias_larger_than_a_block() -> None:
    """With 24 x 24 tokens and two heads, whose bias takes 2.5 MiB, nothing exceeds the block's 256 KiB."""
    q = torch.zeros(2, 24 * 24, 8)
    tables = torch.zeros(24, 24, 8), torch.zeros(24, 24, 8)
    with LargestTensor() as largest:
        attend(q, q, q, *tables, block_bytes=256 << 10)

    assert 128 << 10 < largest.num_bytes <= 256 << 10


@torch.no_grad()
@pytest.mark.parametrize("size", [(7, 7), (8, 5), (4, 4), (3, 4)])
def test_windowed_attention_pads_before_projecting(size: tuple[int, int]) -> None:
    """Projecting real tokens alone is the same as windows of zero-padded tokens that are all projected."""
    attention = make_attention(4)
    x = torch.randn(2, *size, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    windows, padded_size = window_partition(x, 4)
    expected = window_unpartition(attention(windows), 4, padded_size, size)

    torch.testing.assert_close(attention(x, 4), expected, rtol=0, atol=1e-11)


@torch.no_grad()
def test_each_image_of_a_batch_is_encoded_as_if_alone() -> None:
    """Windows and heads of several images do not mix."""
    for window_size in (4, 0):
        attention = make_attention(window_size or 6)
        x = torch.randn(3, 6, 6, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        alone = torch.cat([attention(image[None], window_size) for image in x])

        torch.testing.assert_close(attention(x, window_size), alone, rtol=0, atol=1e-11)


def test_padding_of_windows_has_the_given_values() -> None:
    """Below, to the right and in the corner, padded tokens are ``fill``; gradients reach it."""
    fill = torch.tensor([2.0, 3.0], requires_grad=True)
    windows, _ = window_partition(torch.ones(1, 3, 3, 2), 2, fill)
    windows.sum().backward()

    assert windows[:, :, :, 0].tolist() == [
        [[1, 1], [1, 1]],
        [[1, 2], [1, 2]],
        [[1, 1], [2, 2]],
        [[1, 2], [2, 2]],
    ]
    assert fill.grad is not None
    assert fill.grad.tolist() == [7, 7]


@pytest.mark.parametrize(("height", "width", "size"), [(64, 64, 14), (16, 16, 4), (5, 9, 7), (1, 1, 3)])
def test_merging_undoes_partitioning(height: int, width: int, size: int) -> None:
    """Every token comes back to its place, for sizes that need padding and for those that need none."""
    tokens = torch.arange(2 * height * width * 3).reshape(2, height, width, 3)
    windows, padded_size = window_partition(tokens, size)

    assert windows.shape == (2 * -(-height // size) * -(-width // size), size, size, 3)
    assert torch.equal(window_unpartition(windows, size, padded_size, (height, width)), tokens)


def test_padding_is_zeros_at_the_bottom_and_right() -> None:
    """The last window of a 3 x 3 map cut into 2 x 2 holds one token."""
    windows, _ = window_partition(torch.ones(1, 3, 3, 1), 2)

    assert windows[-1, :, :, 0].tolist() == [[1, 0], [0, 0]]
    assert windows.sum() == 9
