"""labelme's files: out without loss, and back as corrections."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from sam_engine.dataset.correction_log import CorrectionLog, read_corrections
from sam_engine.dataset.corrections import Operation
from sam_engine.dataset.originals import open_originals
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import InputError
from sam_engine.formats.export import export_dataset
from sam_engine.formats.labelme import read_labelme
from sam_engine.formats.returned import log_differences
from sam_engine.ops.rle import decode_counts
from tests.helpers.dataset_builder import image, sample_records, write_dataset
from tests.helpers.drawn_data import write_our_dataset


@pytest.fixture
def root(tmp_path):
    """A dataset of five rows, four masks, without its images."""
    write_dataset(tmp_path / "out", sample_records())
    return tmp_path / "out"


def masks_of(document):
    """The masks of a file, pasted as labelme's format says: the PNG's first pixel is the first point."""
    found = {}
    for shape in document["shapes"]:
        (left, top), (right, bottom) = shape["points"]
        crop = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))) > 0
        assert crop.shape == (bottom - top + 1, right - left + 1)
        mask = np.zeros((document["imageHeight"], document["imageWidth"]), bool)
        mask[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = crop
        found[shape["group_id"]] = mask
    return found


def test_masks_are_written_as_they_are(root, tmp_path):
    """Every pixel of every mask, under the annotation's id."""
    summary = export_dataset(open_dataset(root), tmp_path / "labelme", to="labelme")
    [first, *_] = sorted((tmp_path / "labelme").glob("*.json"))
    record = sample_records()[0]
    written = masks_of(json.loads(first.read_text()))

    assert (summary.num_images, summary.num_masks) == (4, 4)
    assert list(written) == [0, 1]
    for number, mask in enumerate(record.annotations):
        assert np.array_equal(written[number], decode_counts(mask.counts, mask.size))


def test_images_are_copied_beside_their_masks(tmp_path):
    """Upright JPEGs under the name that the file says."""
    root = write_our_dataset(tmp_path / "data")
    dataset = open_dataset(root)
    summary = export_dataset(
        dataset, tmp_path / "labelme", to="labelme", originals=open_originals(dataset.run_info)
    )
    document = json.loads((tmp_path / "labelme/000000000000.json").read_text())

    assert summary.num_copies == summary.num_images > 0
    with Image.open(tmp_path / "labelme" / document["imagePath"]) as copy:
        assert copy.size == (document["imageWidth"], document["imageHeight"])


def test_what_nobody_touched_leaves_no_line(root, tmp_path):
    """Out and back without a change is no correction."""
    dataset = open_dataset(root)
    export_dataset(dataset, tmp_path / "labelme", to="labelme")
    summary = log_differences(dataset, root, read_labelme(tmp_path / "labelme"), by="ann")

    assert (summary.num_images, summary.num_kept) == (4, 4)
    assert read_corrections(root) == {}


def test_a_mask_without_pixels_is_not_deleted(tmp_path):
    """It cannot be written, and so nobody took it away."""
    write_dataset(tmp_path / "out", [image(0, b"a.jpg", [np.zeros((24, 32), bool)])])
    dataset = open_dataset(tmp_path / "out")
    export_dataset(dataset, tmp_path / "labelme", to="labelme")
    summary = log_differences(dataset, tmp_path / "out", read_labelme(tmp_path / "labelme"), by="ann")

    assert (summary.num_kept, summary.num_deleted) == (1, 0)


def edit(folder, change):
    """Change the shapes of the first image's file."""
    path = folder / "000000000000.json"
    document = json.loads(path.read_text())
    change(document["shapes"])
    path.write_text(json.dumps(document))


def test_changes_come_back_as_corrections(root, tmp_path):
    """A mask that was moved is replaced, one that is gone is deleted, one without an id is new."""
    dataset = open_dataset(root)
    export_dataset(dataset, tmp_path / "labelme", to="labelme")

    def change(shapes):
        shapes[0]["points"] = [[x + 1, y] for x, y in shapes[0]["points"]]
        polygon = {"shape_type": "polygon", "points": [[1, 1], [6, 1], [6, 5], [1, 5]], "group_id": None}
        shapes[1:] = [polygon]

    edit(tmp_path / "labelme", change)
    summary = log_differences(dataset, root, read_labelme(tmp_path / "labelme"), by="ann", exhaustive=True)
    lines = read_corrections(root)[0]
    [mask] = sample_records()[0].annotations[:1]
    moved = np.roll(decode_counts(mask.counts, mask.size), 1, axis=1)

    assert (summary.num_replaced, summary.num_deleted, summary.num_added) == (1, 1, 1)
    assert [line.operation for line in lines] == [
        Operation.REPLACE, Operation.ADD, Operation.DELETE, Operation.ACCEPT,
    ]  # fmt: skip
    assert np.array_equal(decode_counts(lines[0].counts, lines[0].size), moved)
    assert decode_counts(lines[1].counts, lines[1].size).sum() == 6 * 5
    assert {line.by for line in lines} == {"ann"}


def test_masks_that_people_added_keep_their_identity(root, tmp_path):
    """A mask of an earlier correction goes out under a number, and back to the mask that it is."""
    dataset = open_dataset(root)
    log = CorrectionLog(root, "ann")
    mask = sample_records()[0].annotations[0]
    added = log.add(0, mask.size, mask.counts)
    export_dataset(dataset, tmp_path / "labelme", to="labelme", corrections=read_corrections(root))
    edit(tmp_path / "labelme", lambda shapes: shapes.pop())
    log_differences(dataset, root, read_labelme(tmp_path / "labelme"), by="bob")

    assert [(line.operation, line.mask_id) for line in read_corrections(root)[0][1:]] == [
        (Operation.DELETE, added)
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda shapes: shapes[0].update(group_id=77), "image 0 has no mask 77"),
        (lambda shapes: shapes[0].update(shape_type="circle"), "a shape is a circle"),
        (lambda shapes: shapes[0].update(mask="no base64"), "no file of labelme's"),
        (lambda shapes: shapes[0].update(points=[[], [4, 4]]), "no file of labelme's"),
        (lambda shapes: shapes[0].update(label=7), "called 7, which is no text"),
        (lambda shapes: shapes[0].update(label="x" * 300), "label is 'xxx"),
        (lambda shapes: shapes[0].update(points=[[-5, 0], [4, 4]]), "leaves it"),
    ],
)
def test_what_cannot_be_is_refused_before_a_line_is_written(root, tmp_path, change, message):
    """The file and what is wrong with it; the log stays as it was."""
    dataset = open_dataset(root)
    export_dataset(dataset, tmp_path / "labelme", to="labelme")
    edit(tmp_path / "labelme", change)

    with pytest.raises(InputError, match=message):
        log_differences(dataset, root, read_labelme(tmp_path / "labelme"), by="ann")
    assert read_corrections(root) == {}
