"""COCO as its readers differ: both forms of run lengths, crowds, polygons, copies; and back."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from sam_engine import annotate_dataset
from sam_engine.dataset.correction_log import CorrectionLog, read_corrections
from sam_engine.dataset.corrections import Operation
from sam_engine.dataset.originals import open_originals
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError, InputError
from sam_engine.formats.coco import read_coco
from sam_engine.formats.coco_export import CocoForm
from sam_engine.formats.export import export_dataset
from sam_engine.formats.open import open_source
from sam_engine.formats.polygons import outlines_of
from sam_engine.formats.returned import highest_id, log_differences
from sam_engine.ops.rle import decode_counts
from tests.helpers import fakes
from tests.helpers.dataset_builder import image, rectangle_mask, sample_records, write_dataset
from tests.helpers.drawn_data import write_our_dataset


@pytest.fixture
def root(tmp_path):
    """A dataset of five rows, four masks, without its images."""
    write_dataset(tmp_path / "data", sample_records())
    return tmp_path / "data"


def export(root, output, **options):
    return export_dataset(
        open_dataset(root), output, to="coco", corrections=read_corrections(root), **options
    )


FORMS = {"compressed": {}, "uncompressed": {"rle": "uncompressed"}, "polygons": {"polygons": True}}


def masks_by_pycocotools(path):
    """Every mask of a file, by its id in the dataset."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    return {each["id"] - 1: coco.annToMask(each).astype(bool) for each in coco.anns.values()}


def masks_of_rows():
    return {
        record.image_id * 65536 + index: decode_counts(mask.counts, mask.size)
        for record in sample_records()
        for index, mask in enumerate(record.annotations)
    }


def same(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_pycocotools_reads_every_form_of_masks(root, tmp_path, form):
    """Rectangles are the same in all of them, polygons included."""
    export(root, tmp_path / "c.json", **form)

    assert same(masks_by_pycocotools(tmp_path / "c.json"), masks_of_rows())


def test_uncompressed_crowds_are_what_labelformat_takes(root, tmp_path):
    """Iscrowd 1, and counts as a list that begins with background and sums to the pixels."""
    export(root, tmp_path / "c.json", rle="uncompressed", iscrowd=True)
    annotations = json.loads((tmp_path / "c.json").read_text())["annotations"]

    assert {each["iscrowd"] for each in annotations} == {1}
    assert all(sum(each["segmentation"]["counts"]) == 24 * 32 for each in annotations)


def test_outlines_are_the_mask_with_its_holes_closed():
    """Of random masks, filled by pycocotools: nothing is lost, and only holes are added."""
    import cv2
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(0)
    for density in (0.02, 0.2, 0.5, 0.8, 1.0):
        for _ in range(20):
            mask = rng.random((17, 23)) < density
            if not mask.any():
                continue
            parts = [outline.ravel().tolist() for outline in outlines_of(mask)]
            filled = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, 17, 23))).astype(bool)
            outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
            _, labels = cv2.connectedComponents(outside, connectivity=4)
            closed = (labels != labels[0, 0])[1:-1, 1:-1]

            assert np.array_equal(filled, closed)


def test_the_loss_of_polygons_is_measured(tmp_path):
    """A ring loses its hole; an empty mask has no polygon and is left out."""
    ring = rectangle_mask(24, 32, 2, 2, 10, 10) & ~rectangle_mask(24, 32, 5, 5, 4, 4)
    write_dataset(tmp_path / "data", [image(0, b"a.jpg", [ring, np.zeros((24, 32), bool)])])
    loss = export(tmp_path / "data", tmp_path / "c.json", polygons=True).polygons

    assert loss.mean_iou == pytest.approx(84 / 100)
    assert loss.num_lost == 1
    assert len(json.loads((tmp_path / "c.json").read_text())["annotations"]) == 1


def test_polygons_cannot_be_crowds():
    """COCO's crowds are run lengths."""
    with pytest.raises(ConfigError, match="polygons are not"):
        CocoForm(segmentation="polygons", iscrowd=True)


def test_copies_are_named_by_ids(tmp_path):
    """Upright, of the stated size, in the folder beside the file, under no name that an input had."""
    dataset = open_dataset(write_our_dataset(tmp_path / "data"))
    output = tmp_path / "c.json"
    summary = export_dataset(dataset, output, to="coco", originals=open_originals(dataset.run_info))
    images = json.loads(output.read_text())["images"]

    assert summary.num_copies == len(images) > 0
    for each in images:
        assert each["file_name"] == f"{each['id']:012d}.jpg"
        with Image.open(tmp_path / "c" / each["file_name"]) as copy:
            assert copy.size == (each["width"], each["height"])


def take_back(root, path, **options):
    dataset = open_dataset(root)
    masks = read_coco(path, highest_id=highest_id(dataset, root))
    return log_differences(dataset, root, masks, by="ann", **options)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_nobody_touched_leaves_no_line(root, tmp_path, form):
    """Out and back without a change is no correction, also of images without masks."""
    export(root, tmp_path / "c.json", **form)
    summary = take_back(root, tmp_path / "c.json")

    assert (summary.num_images, summary.num_kept) == (4, 4)
    assert read_corrections(root) == {}


def test_names_of_cocos_own_are_no_ids(tmp_path):
    """COCO's images are called by twelve digits too, which are not this dataset's."""
    mask = rectangle_mask(24, 32, 2, 2, 10, 10)
    write_dataset(tmp_path / "data", [image(0, b"000000000139.jpg", [mask])])
    export(tmp_path / "data", tmp_path / "c.json")

    assert take_back(tmp_path / "data", tmp_path / "c.json").num_kept == 1


def test_polygons_that_come_back_are_said_to_have_no_holes(root, tmp_path, caplog):
    """For then a mask with a hole is a mask that was changed."""
    export(root, tmp_path / "c.json", polygons=True)
    read_coco(tmp_path / "c.json", highest_id=10**9)

    assert "4 masks are polygons; holes of theirs are taken as closed" in caplog.text


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_changes_come_back_as_corrections(root, tmp_path):
    """A polygon in place of a mask, one gone, and one under an id above all others, which is new."""
    path = tmp_path / "c.json"
    export(root, path)

    def change(document):
        first, second, *others = document["annotations"]
        square = [[4, 4, 9, 4, 9, 9, 4, 9]]
        new = second | {"id": max(each["id"] for each in others) + 1, "segmentation": square}
        document["annotations"] = [first | {"segmentation": square}, *others, new]

    edit(path, change)
    take_back(root, path)
    lines = read_corrections(root)[0]

    assert [(line.operation, line.mask_id) for line in lines[::2]] == [
        (Operation.REPLACE, 0), (Operation.DELETE, 1),
    ]  # fmt: skip
    assert lines[1].operation == Operation.ADD
    assert np.array_equal(decode_counts(lines[0].counts, (24, 32)), rectangle_mask(24, 32, 4, 4, 5, 5))


def test_a_mask_that_a_person_added_is_known_again(root, tmp_path):
    """Its id is above all of the rows' ids, but not above all that were exported."""
    mask = sample_records()[0].annotations[0]
    log = CorrectionLog(root, "ann")
    log.add(4, mask.size, mask.counts)
    export(root, tmp_path / "c.json")
    summary = take_back(root, tmp_path / "c.json")

    assert (summary.num_kept, summary.num_added, summary.num_deleted) == (5, 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [each.update(id=i + 1) for i, each in enumerate(d["annotations"])], "has no mask"),
        (lambda d: d["annotations"][1].update(id=1), "image 0 has mask 0 twice"),
        (
            lambda d: d["images"][1].update(id=1, file_name="000000000002.jpg", original_name="b"),
            "numbered anew",
        ),
        (lambda d: d["annotations"][0]["segmentation"].update(counts="~"), "no COCO file of an export"),
        (lambda d: d.pop("images"), "no COCO file of an export"),
        (lambda d: d["images"][0].update(width=7, height=7), "a mask of"),
    ],
)
def test_what_cannot_be_is_refused_before_a_line_is_written(root, tmp_path, change, message):
    """The file and what is wrong with it; the log stays as it was."""
    export(root, tmp_path / "c.json")
    edit(tmp_path / "c.json", change)

    with pytest.raises(InputError, match=message):
        take_back(root, tmp_path / "c.json")
    assert read_corrections(root) == {}


def test_our_own_file_of_turned_images_is_read_in_its_frame(tmp_path):
    """It says that it is upright, which sizes do not tell of a photo that lies on its head."""
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    for number, orientation in enumerate((1, 3, 6)):
        exif[0x0112] = orientation
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"in/{number}.png", exif=exif)
    annotate_dataset(
        input=tmp_path / "in",
        output=tmp_path / "data",
        model={"checkpoint": "random"},
        amg={"points_per_side": 2},
        executor="inline",
        previews=0,
        make_model=fakes.make_disc_segmenter,
    )
    export(tmp_path / "data", tmp_path / "c.json")
    theirs = open_source(tmp_path / "c.json", str(tmp_path / "in"))
    ours = open_source(tmp_path / "data")

    assert len(theirs) == 3
    for index in range(3):
        assert np.array_equal(theirs.read(index).pixels, ours.read(index).pixels)
        assert np.array_equal(theirs.read(index).masks, ours.read(index).masks)
