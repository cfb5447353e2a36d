"""Copies of images in every export: what was to be hidden is, metadata is gone, and all else is as it was."""

import io
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sam_engine.formats.export import EXPORTS
from sam_engine.privacy.blur import region_of
from tests.privacy.conftest import FACE_XYWH
from tools import export
from tools.command import run

FORMS = {name: ["--to", name] for name in EXPORTS} | {"tar": ["--to", "sa1b", "--tar"]}
FORMS["coco"] += ["--images"]


def exported(dataset, name, *flags):
    """The JPEGs of an export in order of their ids, by their bytes."""
    output = dataset.parent / f"{name}/all.json" if "coco" in flags else dataset.parent / name
    assert run(export.main, [str(dataset), "--output", str(output), *flags]) == 0
    found = {path.name: path.read_bytes() for path in (dataset.parent / name).rglob("*.jpg")}
    for path in output.glob("*.tar"):
        with tarfile.open(path) as tar:
            found |= {each.name: tar.extractfile(each).read() for each in tar if each.name.endswith(".jpg")}
    for path in output.glob("data/*.parquet"):
        images = pq.read_table(path, columns=["image"])["image"].to_pylist()
        found |= {each["path"]: each["bytes"] for each in images}
    return [found[key] for key in sorted(found)]


def pixels_of(data):
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def boxes_of(dataset, text="a.jpg,{},{},{},{}\n"):
    path = dataset.parent / "boxes.csv"
    path.write_text("file_name,x,y,width,height\n" + text.format(*FACE_XYWH))
    return ["--blur", "boxes", "--boxes", str(path)]


def assert_hidden(plain, blurred, box_xywh):
    """The region changed, much and everywhere; outside of its 8 x 8 blocks of JPEG nothing did."""
    left, top, right, bottom = region_of(np.array(box_xywh), plain.shape[:2])
    changed = np.abs(blurred - plain).max(axis=2)
    inside = changed[top:bottom, left:right]
    outside = np.ones(changed.shape, bool)
    outside[top // 8 * 8 : -(-bottom // 8) * 8, left // 8 * 8 : -(-right // 8) * 8] = False
    assert (inside > 0).mean() > 0.95
    assert inside.mean() > 15
    assert changed[outside].max() == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_box_is_blurred_in_every_form(dataset, astronaut, form):
    """The upright face's region differs, the rest of that photo does not, nor the other image in any byte."""
    plain = exported(dataset, "plain", *FORMS[form])
    blurred = exported(dataset, "blurred", *FORMS[form], *boxes_of(dataset))

    assert len(plain) == len(blurred) == 2
    assert np.abs(pixels_of(plain[0]) - astronaut).mean() < 4  # upright; JPEG, twice
    assert_hidden(pixels_of(plain[0]), pixels_of(blurred[0]), FACE_XYWH)
    assert blurred[1] == plain[1]


@pytest.mark.parametrize("form", FORMS)
def test_copies_have_no_metadata(dataset, form):
    """Neither where the photo was taken, nor the maker, nor a comment: JFIF's header is all there is."""
    source = (dataset.parent / "photos/a.jpg").read_bytes()
    [copy, _] = exported(dataset, "copies", *FORMS[form])
    read = Image.open(io.BytesIO(copy))

    assert b"SECRETMAKER" in source
    assert b"SECRETPLACE" in source
    assert Image.open(io.BytesIO(source)).getexif().get_ifd(0x8825)
    assert dict(read.getexif()) == {}
    assert set(read.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert b"SECRET" not in copy
    assert b"Exif" not in copy


def test_sources_stay_as_they_were(dataset):
    """To the byte."""
    before = (dataset.parent / "photos/a.jpg").read_bytes()
    exported(dataset, "blurred", *FORMS["sa1b"], *boxes_of(dataset))

    assert (dataset.parent / "photos/a.jpg").read_bytes() == before


def test_the_same_export_has_the_same_bytes(dataset):
    """Blurring draws nothing at random."""
    first = exported(dataset, "first", *FORMS["sa1b"], *boxes_of(dataset))

    assert exported(dataset, "second", *FORMS["sa1b"], *boxes_of(dataset)) == first


def test_what_was_blurred_is_told(dataset, capsys):
    """How many regions in how many images; names that are none are told on the way."""
    text = "a.jpg,1,2,30,40\na.jpg,100,2,30,40\nc.jpg,1,2,3,4\n"
    exported(dataset, "told", *FORMS["sa1b"], *boxes_of(dataset, text))
    printed = capsys.readouterr()
    exported(dataset, "json", *FORMS["sa1b"], *boxes_of(dataset, text), "--json")

    assert printed.out.splitlines()[-1] == "2 regions were blurred, in 1 of 2 images"
    assert printed.err == "1 names in boxes are no images here, the first c.jpg\n"
    assert json.loads(capsys.readouterr().out)["blurred"] == {"images": 1, "regions": 2}


@pytest.mark.parametrize("flags", [["--blur", "boxes"], ["--boxes", "b.csv"]])
def test_a_table_of_boxes_belongs_to_blurring_boxes(dataset, capsys, flags):
    """One without the other is a mistake of usage."""
    with pytest.raises(SystemExit, match="2"):
        export.main([str(dataset), "--to", "sa1b", "--output", str(dataset.parent / "x"), *flags])

    assert "--blur boxes and --boxes TABLE go together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "table", "message"),
    [
        ("sa1b", "gone.csv", "boxes: gone.csv cannot be read"),
        ("coco", None, "--blur has nothing to blur: no images are copied"),
    ],
)
def test_what_cannot_be_blurred_is_refused(dataset, capsys, form, table, message):
    """With exit code 2, before anything is written."""
    flags = ["--blur", "boxes", "--boxes", table] if table else boxes_of(dataset)
    code = run(export.main, [str(dataset), "--to", form, "--output", str(dataset.parent / "x"), *flags])

    assert code == 2
    assert message in capsys.readouterr().err
    assert not (dataset.parent / "x").exists()
