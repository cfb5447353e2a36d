"""CVAT's XML for images: its run lengths, out without loss and back as corrections."""

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from sam_engine.dataset.correction_log import read_corrections
from sam_engine.dataset.corrections import Operation
from sam_engine.dataset.originals import open_originals
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import InputError
from sam_engine.formats.cvat import cvat_image, read_cvat
from sam_engine.formats.export import export_dataset
from sam_engine.formats.returned import log_differences
from sam_engine.ops.rle import decode_counts, decode_runs
from tests.helpers.dataset_builder import annotation, image, rectangle_mask, sample_records, write_dataset
from tests.helpers.drawn_data import write_our_dataset


def plainly_decoded(element, size):
    """The mask as CVAT's documentation has it: run by run, pixel by pixel, in the box."""
    left, top, width = (int(element.get(name)) for name in ("left", "top", "width"))
    mask = np.zeros(size, bool)
    place, value = 0, False
    for run in element.get("rle").split(", "):
        for _ in range(int(run)):
            mask[top + place // width, left + place % width] = value
            place += 1
        value = not value

    assert place == width * int(element.get("height"))
    return mask


def test_masks_are_written_as_cvat_reads_them():
    """Random masks, also such that touch every edge: every pixel, in a box that fits."""
    rng = np.random.default_rng(0)
    masks = [rng.random((9, 13)) < density for density in (0.01, 0.1, 0.5, 1) for _ in range(5)]
    masks = [mask for mask in masks if mask.any()]
    element = cvat_image(image(0, b"a", masks, size=(9, 13)), [annotation(mask) for mask in masks], "x")

    assert len(element) == len(masks)
    for written, mask in zip(element, masks, strict=True):
        assert np.array_equal(plainly_decoded(written, (9, 13)), mask)


@pytest.fixture
def root(tmp_path):
    """A dataset of five rows, four masks, without its images."""
    write_dataset(tmp_path / "data", sample_records())
    return tmp_path / "data"


def take_back(root, folder):
    return log_differences(open_dataset(root), root, read_cvat(folder), by="ann")


def edit(folder, change):
    path = folder / "annotations.xml"
    tree = ET.parse(path)
    change(tree.getroot())
    tree.write(path)


def test_a_label_that_xml_cannot_hold_is_written_all_the_same():
    """Control characters and markup in a label are no XML."""
    mask = replace(annotation(rectangle_mask(24, 32, 2, 2, 3, 3)), label='a\x00<b>"&')
    text = ET.tostring(cvat_image(image(0, b"a"), [mask], "x"))

    assert ET.fromstring(text)[0].get("label") == 'a\ufffd<b>"&'


def test_images_and_labels_are_there_to_make_a_task_of(tmp_path):
    """The images by name, and a label with the attribute that masks are known by."""
    dataset = open_dataset(write_our_dataset(tmp_path / "data"))
    export_dataset(dataset, tmp_path / "cvat", to="cvat", originals=open_originals(dataset.run_info))
    names = [each.get("name") for each in ET.parse(tmp_path / "cvat/annotations.xml").iter("image")]
    [label] = json.loads((tmp_path / "cvat/labels.json").read_text())

    assert names == sorted(path.name for path in (tmp_path / "cvat/images").iterdir())
    assert (label["name"], label["attributes"][0]["name"]) == ("object", "annotation_id")


def test_what_nobody_touched_leaves_no_line(root, tmp_path):
    """Out and back without a change is no correction."""
    export_dataset(open_dataset(root), tmp_path / "cvat", to="cvat")
    summary = take_back(root, tmp_path / "cvat")

    assert (summary.num_images, summary.num_kept) == (4, 4)
    assert read_corrections(root) == {}


def test_what_comes_back_is_what_was_written(root, tmp_path):
    """Every pixel of every mask, under its id."""
    export_dataset(open_dataset(root), tmp_path / "cvat", to="cvat")
    [first, *_] = read_cvat(tmp_path / "cvat")
    masks = sample_records()[0].annotations

    assert [found.id for found in first.masks] == [0, 1]
    for found, mask in zip(first.masks, masks, strict=True):
        assert np.array_equal(decode_runs(found.runs, (24, 32)), mask.mask())


def test_changes_come_back_as_corrections(root, tmp_path):
    """A mask that was moved, one removed, and one drawn in CVAT, whose id is empty."""
    export_dataset(open_dataset(root), tmp_path / "cvat", to="cvat")

    def change(document):
        first, second = document.find("image")
        first.set("left", str(int(first.get("left")) + 1))
        second[0].text = ""

    edit(tmp_path / "cvat", change)
    take_back(root, tmp_path / "cvat")
    lines = read_corrections(root)[0]
    mask = sample_records()[0].annotations[0]
    moved = np.roll(decode_counts(mask.counts, mask.size), 1, axis=1)

    assert [line.operation for line in lines] == [Operation.REPLACE, Operation.ADD, Operation.DELETE]
    assert np.array_equal(decode_counts(lines[0].counts, lines[0].size), moved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.find("image").set("name", "../cat.jpg"), "not called by an id"),
        (lambda d: d.find("image").append(ET.Element("box")), "has a box; masks come back"),
        (lambda d: d.find("image/mask").remove(d.find("image/mask/attribute")), "no attribute annotation_id"),
        (lambda d: d.find("image/mask").set("left", "31"), "leaves its image"),
        (lambda d: d.find("image/mask").set("rle", "0, 7"), "no XML of CVAT's"),
        (lambda d: d.find("image/mask").set("rle", f"{2**70}"), "no XML of CVAT's"),
        (lambda d: setattr(d.find("image/mask/attribute"), "text", "99"), "has no mask 99"),
    ],
)
def test_what_cannot_be_is_refused_before_a_line_is_written(root, tmp_path, change, message):
    """The file and what is wrong with it; the log stays as it was."""
    export_dataset(open_dataset(root), tmp_path / "cvat", to="cvat")
    edit(tmp_path / "cvat", change)

    with pytest.raises(InputError, match=message):
        take_back(root, tmp_path / "cvat")
    assert read_corrections(root) == {}


def test_entities_are_refused(tmp_path):
    """A file that expands to more than it is."""
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbb">]><annotations><image name="&b;"/></annotations>'
    (tmp_path / "annotations.xml").write_text(bomb)

    with pytest.raises(InputError, match="document type"):
        read_cvat(tmp_path)
