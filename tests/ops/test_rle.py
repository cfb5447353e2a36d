"""Run lengths against pycocotools and plain loops."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from sam_engine.errors import RleError
from sam_engine.ops.rle import (
    area_of,
    bbox_of,
    counts_to_runs,
    crop_to_runs,
    decode_counts,
    decode_runs,
    encode_mask,
    mask_to_runs,
    runs_to_counts,
)

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


@st.composite
def smooth_masks(draw):
    """Masks of a few filled rectangles: long runs, and runs that go on into the next column."""
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    mask = np.zeros((height, width), dtype=bool)
    for _ in range(draw(st.integers(0, 4))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
        mask[top:bottom, left:right] ^= True
    return mask


def coco_counts(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@given(st.one_of(masks, smooth_masks()))
def test_encoding_equals_pycocotools_byte_for_byte(mask):
    """Any mask, noisy or smooth, has the counts that pycocotools writes."""
    assert encode_mask(mask) == coco_counts(mask)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (480, 640)])
def test_constant_masks_equal_pycocotools(size, fill):
    """Empty and full masks, also of one pixel, row or column."""
    mask = np.full(size, fill)

    assert encode_mask(mask) == coco_counts(mask)


@given(st.one_of(masks, smooth_masks()))
def test_decoding_inverts_encoding(mask):
    """What was encoded comes back."""
    assert np.array_equal(decode_counts(encode_mask(mask), mask.shape), mask)


@given(masks, st.data())
def test_runs_of_a_crop_are_those_of_the_whole_mask(crop, data):
    """A crop at an offset has the runs of the mask that is zero elsewhere."""
    top, left, below, right = (data.draw(st.integers(0, 3)) for _ in range(4))
    mask = np.pad(crop, ((top, below), (left, right)))

    runs = crop_to_runs(crop, (top, left), mask.shape)

    assert runs_to_counts(runs) == coco_counts(mask)


@given(st.one_of(masks, smooth_masks()))
def test_area_and_box_are_those_of_the_pixels(mask):
    """Area counts pixels; the box spans inclusive indices."""
    runs = mask_to_runs(mask)
    y, x = np.nonzero(mask)
    box = (x.min(), y.min(), x.max() - x.min(), y.max() - y.min()) if len(x) else (0, 0, 0, 0)

    assert area_of(runs) == mask.sum()
    assert bbox_of(runs, mask.shape) == box


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=12))
def test_large_runs_survive_the_text(runs):
    """Differences of 32-bit runs take up to seven groups and come back exact."""
    total = sum(runs)
    if not 0 < total < 2**32:
        runs = [run // 16 for run in runs]
        runs[0] += 1
    size = (1, sum(runs))

    assert counts_to_runs(runs_to_counts(np.array(runs)), size).tolist() == runs


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=40), st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=40)
    )
)
def test_garbage_raises_or_decodes_as_pycocotools_does(counts):
    """No text crashes the decoder, and what it accepts pycocotools reads alike."""
    size = (5, 6)
    try:
        mask = decode_counts(counts, size)
    except RleError:
        return

    raw = counts if isinstance(counts, bytes) else counts.encode()
    assert np.array_equal(mask, coco_mask.decode({"size": list(size), "counts": raw}))


@pytest.mark.parametrize(
    ("counts", "size", "message"),
    [
        ("", (3, 3), "1 to"),
        ("9", (3, 4), "sum to 12"),
        ("9", (0, 9), "two positive ints"),
        ("9", (-3, -3), "two positive ints"),
        ("9", (3.0, 3.0), "two positive ints"),
        ("9", (2**32 + 3, 3), "two positive ints"),
        ("9", (9,), "two positive ints"),
        ("o", (3, 3), "truncated"),
        ("oooooooo0", (3, 3), "groups"),
        ("9é", (3, 3), "not ASCII"),
        (b"\x00", (3, 3), "'0' to 'o'"),
        ("9p", (3, 3), "'p' at 1"),
        ("5O5", (3, 3), "sum to 9"),  # 5, -1, 5: a negative run that the others make up for
    ],
)
def test_malformed_counts_raise_with_a_reason(counts, size, message):
    """Each kind of damage has its own message."""
    with pytest.raises(RleError, match=message):
        counts_to_runs(counts, size)


def test_a_huge_size_allocates_nothing():
    """The size is checked against the limit before the mask is made."""
    counts = runs_to_counts(np.array([2**31]))

    with pytest.raises(RleError, match="exceeds the limit"):
        decode_counts(counts, (2**16, 2**15))


def test_runs_that_do_not_fit_are_refused():
    """decode_runs checks what it is given."""
    with pytest.raises(RleError, match="sum to 9"):
        decode_runs(np.array([3, 3]), (3, 3))


def test_importing_does_not_import_torch():
    """Readers and exporters start without torch."""
    code = "import sam_engine.ops.rle, sys; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
