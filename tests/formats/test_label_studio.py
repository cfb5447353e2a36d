"""Label Studio's tasks: its bit-packed masks, out without loss and back as corrections."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from sam_engine.dataset.correction_log import read_corrections
from sam_engine.dataset.corrections import Operation
from sam_engine.dataset.originals import open_originals
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import InputError
from sam_engine.formats.export import export_dataset
from sam_engine.formats.label_studio import (
    decode_brush,
    encode_brush,
    read_label_studio,
)
from sam_engine.formats.returned import log_differences
from sam_engine.ops.rle import decode_counts
from tests.helpers.dataset_builder import rectangle_mask, sample_records, write_dataset
from tests.helpers.drawn_data import write_our_dataset


def drawn_masks():
    """Random, full, empty, one pixel, one row and one column, and runs longer than a count can say."""
    rng = np.random.default_rng(0)
    for density in (0, 0.01, 0.3, 0.9, 1):
        yield rng.random((13, 17)) < density
    yield from (np.ones((1, 1), bool), np.ones((1, 9), bool), rng.random((9, 1)) < 0.5)
    yield rectangle_mask(150, 200, 0, 20, 200, 100)
    yield np.ones((128, 256), bool)


def plainly_decoded(data):
    """The bytes of rle-pack, read bit by bit as its source does."""
    bits, place = "".join(f"{byte:08b}" for byte in data), 0

    def read(width):
        nonlocal place
        place += width
        return int(bits[place - width : place], 2)

    num, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out = []
    while len(out) < num:
        is_run = read(1)
        count = 1 + read(sizes[read(2)])
        out += [read(word)] * count if is_run else [read(word) for _ in range(count)]
    return np.array(out, np.uint8)


def test_masks_are_packed_as_rle_pack_reads_them():
    """All four channels of every pixel, and nothing after them."""
    for mask in drawn_masks():
        decoded = plainly_decoded(encode_brush(mask)).reshape(*mask.shape, 4)

        assert np.array_equal(decoded, np.repeat(mask[..., None] * np.uint8(255), 4, axis=2))


def test_our_decoder_reads_runs_and_single_words():
    """Our own masks, and one that is written word by word."""
    for mask in drawn_masks():
        assert np.array_equal(decode_brush(encode_brush(mask), mask.shape), mask)
    words = [0, 0, 0, 0, 9, 9, 9, 1, 7, 7, 7, 0]
    text = f"{12:032b}{7:05b}" + "".join(f"{bits - 1:04b}" for bits in (3, 4, 8, 16))
    text += "001" + f"{11:04b}" + "".join(f"{word:08b}" for word in words)
    packed = int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")

    assert decode_brush(packed, (1, 3)).tolist() == [[False, True, False]]


def test_label_studios_own_converter_agrees():
    """Its decoder reads ours, and ours its."""
    spec = importlib.util.find_spec("label_studio_sdk")
    if spec is None:
        pytest.skip("label-studio-sdk is not installed")
    file = Path(spec.submodule_search_locations[0], "converter/brush.py")  # the package needs much else
    module_spec = importlib.util.spec_from_file_location("brush", file)
    brush = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(brush)
    for mask in drawn_masks():
        alpha = brush.decode_rle(list(encode_brush(mask))).reshape(*mask.shape, 4)[..., 3]
        theirs = bytes(brush.mask2rle(mask.astype(np.uint8) * 255))

        assert np.array_equal(alpha > 0, mask)
        assert np.array_equal(decode_brush(theirs, mask.shape), mask)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode_brush(np.ones((4, 5), bool))[:-1],
        encode_brush(np.ones((4, 6), bool)),
        b"\0\0\0P9" + b"\xff" * 9,
    ],
)
def test_what_does_not_fit_is_refused(data):
    """Nothing, too little, of another size, and a run that is too long."""
    with pytest.raises(ValueError, match="run lengths"):
        decode_brush(data, (4, 5))


@pytest.fixture
def root(tmp_path):
    """A dataset of five rows, four masks, without its images."""
    write_dataset(tmp_path / "data", sample_records())
    return tmp_path / "data"


def take_back(root, folder):
    return log_differences(open_dataset(root), root, read_label_studio(folder), by="ann")


def edit(folder, change):
    path = folder / "tasks.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_images_are_copied_under_their_ids(tmp_path):
    """A task names its copy by an address under the folder that Label Studio serves."""
    dataset = open_dataset(write_our_dataset(tmp_path / "data"))
    export_dataset(dataset, tmp_path / "ls", to="label-studio", originals=open_originals(dataset.run_info))
    tasks = json.loads((tmp_path / "ls/tasks.json").read_text())

    assert [task["data"]["image"] for task in tasks] == [
        f"/data/local-files/?d=images/{path.name}" for path in sorted((tmp_path / "ls/images").iterdir())
    ]


def test_what_nobody_touched_leaves_no_line(root, tmp_path):
    """Out and back without a change is no correction."""
    export_dataset(open_dataset(root), tmp_path / "ls", to="label-studio")
    summary = take_back(root, tmp_path / "ls")

    assert (summary.num_images, summary.num_kept) == (4, 4)
    assert read_corrections(root) == {}


def test_changes_come_back_as_corrections(root, tmp_path):
    """A mask painted over, one removed, one painted anew under an id of Label Studio's own."""
    export_dataset(open_dataset(root), tmp_path / "ls", to="label-studio")
    mask = rectangle_mask(24, 32, 4, 4, 5, 5)

    def change(tasks):
        regions = tasks[0]["annotations"][0]["result"]
        regions[0]["value"]["rle"] = list(encode_brush(mask))
        regions[1]["id"] = "Zt3x_9aB-0"

    edit(tmp_path / "ls", change)
    take_back(root, tmp_path / "ls")
    lines = read_corrections(root)[0]

    assert [line.operation for line in lines] == [Operation.REPLACE, Operation.ADD, Operation.DELETE]
    assert np.array_equal(decode_counts(lines[0].counts, lines[0].size), mask)


@pytest.mark.parametrize("annotations", [[], [{"was_cancelled": True, "result": []}]])
def test_what_nobody_annotated_says_nothing(root, tmp_path, annotations):
    """A skipped task is no deletion of its masks."""
    export_dataset(open_dataset(root), tmp_path / "ls", to="label-studio")
    edit(tmp_path / "ls", lambda tasks: [task.update(annotations=annotations) for task in tasks])

    assert take_back(root, tmp_path / "ls").num_images == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[0].update(annotations=t[0]["annotations"] * 2), "task 0 has 2 annotations"),
        (lambda t: t[0]["annotations"][0]["result"][0]["value"].update(format="x"), "brush masks come back"),
        (lambda t: t[0]["annotations"][0]["result"][0].update(image_rotation=90), "turned by 90 degrees"),
        (lambda t: t[0]["annotations"][0]["result"][0].update(original_width=9), "of other sizes"),
        (lambda t: t[0]["annotations"][0]["result"][0].update(id="mask-99"), "image 0 has no mask 99"),
        (lambda t: t[0].pop("data"), "no JSON of Label Studio's"),
        (lambda t: t[0]["annotations"][0]["result"][0]["value"].update(rle=[2**70]), "no JSON of Label"),
        (lambda t: t[0]["annotations"][0]["result"][0]["value"].update(brushlabels=[7]), "is no text"),
    ],
)
def test_what_cannot_be_is_refused_before_a_line_is_written(root, tmp_path, change, message):
    """The file and what is wrong with it; the log stays as it was."""
    export_dataset(open_dataset(root), tmp_path / "ls", to="label-studio")
    edit(tmp_path / "ls", change)

    with pytest.raises(InputError, match=message):
        take_back(root, tmp_path / "ls")
    assert read_corrections(root) == {}
