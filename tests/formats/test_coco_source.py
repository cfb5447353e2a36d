"""COCO instances read: the masks are those of pycocotools, or an error that names the place."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from sam_engine.errors import ConfigError, ImageError, InputError
from sam_engine.formats.open import open_source
from tests.helpers.drawn_data import (
    assert_masks,
    draw,
    rle,
    write_coco,
)


def test_coco_masks_are_pycocotools(tmp_path: Path):
    """Polygons, run lengths compressed and not: the masks are those that pycocotools makes of them."""
    disc, rectangle = draw(0)[1]
    polygons = [[10.5, 10, 40, 12.25, 30, 50], [60, 60, 90, 60, 90, 97.5, 60, 90]]
    flat = rectangle.T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    plain = {"size": [96, 96], "counts": np.diff(edges, prepend=0, append=flat.size).tolist()}
    source = open_source(write_coco(tmp_path, [polygons, plain, rle(disc)]), str(tmp_path / "images"))

    expected = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, 96, 96))).astype(bool)
    assert len(source) == 1
    assert source.read(0).image_id == source.image_id(0) == 7
    assert_masks(source.read(0), [expected, rectangle, disc])


def test_coco_licences_have_their_short_names(tmp_path: Path):
    """Creative Commons licences are told by their address."""
    source = open_source(write_coco(tmp_path, [rle(draw(0)[1][0])]), str(tmp_path / "images"))

    assert source.licence(0) == "CC BY-NC 2.0"


def test_crowds_are_no_masks(tmp_path: Path):
    """COCO's crowd regions cover many things at once."""
    path = write_coco(tmp_path, [rle(draw(0)[1][0])], iscrowd=1)

    with pytest.raises(InputError, match="no image has an annotation that is not a crowd"):
        open_source(path, str(tmp_path / "images"))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3]], "no list of x, y"),
        ([["a", 2, 3, 4, 5, 6]], "no list of x, y"),
        ([[0, 0, 1e9, 0, 0, 5]], "outside of its image"),
        ([[0, 0, float("nan"), 0, 0, 5]], "outside of its image"),
        ({"size": [96, 96], "counts": [5, 4]}, "do not fit an image of 96 x 96"),
        ({"size": [96, 96], "counts": "000"}, "a mask is malformed"),
        ({"size": [5, 5], "counts": "i0"}, r"a mask of \[5, 5\] on an image of \[96, 96\]"),
        ({"size": [96, 96]}, "do not fit an image"),
        ({"size": [48, 192], "counts": [100, 5, 9111]}, r"a mask of \[48, 192\] on an image of \[96, 96\]"),
        ({"size": 96, "counts": [100, 5, 9111]}, "a mask of 96 on an image"),
    ],
)
def test_malformed_coco_annotations_are_that_images_error(tmp_path: Path, segmentation, message: str):
    """Nothing unchecked reaches pycocotools, and the run can leave the image out."""
    source = open_source(write_coco(tmp_path, [segmentation]), str(tmp_path / "images"))

    with pytest.raises(ImageError, match=message):
        source.read(0)


@pytest.mark.parametrize(
    ("content", "images", "message"),
    [
        (json.dumps({"images": []}), ".", "no COCO instances file"),
        ("[]", ".", "no COCO instances file"),
        ("{}", None, "data.images names no folder"),
        ("{}", "nowhere", "there is no folder nowhere"),
    ],
)
def test_what_is_no_coco_file_is_named(tmp_path: Path, content: str, images, message: str):
    """Other JSON, and a missing folder of images, are refused when the source is opened."""
    (tmp_path / "it.json").write_text(content)

    with pytest.raises(ConfigError, match=message):
        open_source(tmp_path / "it.json", images)


def write_turned(
    root: Path, orientation: int, size: tuple[int | None, int | None] | None, **info: str
) -> tuple[Path, str]:
    """Write an upright scene of 96 x 64 as a turned JPEG, and a COCO file of one polygon in its left corner.

    Args:
        root: Folder for both.
        orientation: Of EXIF; the scene is stored so that a viewer shows it upright.
        size: (width, height) that the COCO file states; None for nothing.
        info: Of the file.
    """
    scene = np.full((64, 96, 3), 30, np.uint8)
    scene[4:20, 4:40] = 240
    stored = {1: scene, 3: scene[::-1, ::-1], 6: np.rot90(scene), 8: np.rot90(scene, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (root / "images").mkdir(parents=True)
    Image.fromarray(np.ascontiguousarray(stored)).save(root / "images" / "a.jpg", exif=exif, quality=95)
    image = {"id": 1, "file_name": "a.jpg"} | ({} if size is None else {"width": size[0], "height": size[1]})
    polygon = [4, 4, 40, 4, 40, 20, 4, 20]
    document = {"info": info, "images": [image], "annotations": [{"image_id": 1, "segmentation": [polygon]}]}
    (root / "a.json").write_text(json.dumps(document))
    return root / "a.json", str(root / "images")


def brightness_under_mask(image) -> float:
    """Return the mean of the pixels that the only mask covers."""
    return float(image.pixels[image.mask(0)].mean())


@pytest.mark.parametrize(
    ("orientation", "size", "frame", "info"),
    [
        (1, (96, 64), None, {}),
        (6, (96, 64), None, {}),
        (8, (96, 64), None, {}),
        (3, (96, 64), "upright", {}),
        (3, (96, 64), None, {"frame": "upright"}),
        (6, None, "upright", {}),
        (6, (96, None), None, {}),
        (1, (None, None), None, {}),
    ],
)
def test_masks_of_upright_images_lie_on_upright_images(tmp_path: Path, orientation, size, frame, info):
    """The polygon was drawn on what a viewer shows, and covers the bright part there."""
    source = open_source(*write_turned(tmp_path, orientation, size, **info), coco_frame=frame)

    assert source.read(0).pixels.shape == (64, 96, 3)
    assert brightness_under_mask(source.read(0)) > 230


@pytest.mark.parametrize(("orientation", "size", "frame"), [(6, (64, 96), None), (3, (96, 64), "stored")])
def test_masks_of_stored_images_lie_on_stored_images(tmp_path: Path, orientation, size, frame):
    """A JSON with the size of the pixels as they are stored is about those."""
    source = open_source(*write_turned(tmp_path, orientation, size), coco_frame=frame)
    stored = np.asarray(Image.open(tmp_path / "images" / "a.jpg"))

    assert source.read(0).pixels.shape == (size[1], size[0], 3)
    np.testing.assert_allclose(source.read(0).pixels.astype(int), stored, atol=4)  # two decoders of JPEG


@pytest.mark.parametrize(
    ("orientation", "size", "frame", "message"),
    [
        (1, (64, 96), None, "annotated as 64 x 96 pixels; its file has 96 x 64"),
        (6, (90, 64), None, "annotated as 90 x 64 pixels; its file has 96 x 64 upright, 64 x 96 stored"),
        (6, (96, 64), "stored", "annotated as 96 x 64 pixels, in the stored frame"),
        (3, (96, 64), None, "coco_frame=upright or coco_frame=stored"),
        (6, None, None, "coco_frame=upright or coco_frame=stored"),
        (6, (None, None), None, "coco_frame=upright or coco_frame=stored"),
        (1, (90, None), None, "annotated as 90 x None pixels; its file has 96 x 64"),
    ],
)
def test_no_frame_is_guessed(tmp_path: Path, orientation, size, frame, message: str):
    """A size that fits neither is named beside both; one that fits both needs a word."""
    source = open_source(*write_turned(tmp_path, orientation, size), coco_frame=frame)

    with pytest.raises(ImageError, match=message):
        source.read(0)


def test_a_box_alone_is_passed_over(tmp_path: Path, caplog):
    """It is counted, and the masks beside it are read. Some programs write it as a polygon of its corners."""
    mask = draw(0)[1][0]
    path = write_coco(tmp_path, [rle(mask), None, [], [[]], [[10, 10, 40, 40]]])

    assert_masks(open_source(path, str(tmp_path / "images")).read(0), [mask])
    assert "4 annotations are boxes without a mask" in caplog.text


def test_ids_may_be_text_and_nothing_may_be_null(tmp_path: Path):
    """Numbers in quotes, and null for what a file does not have; other text is refused when it is opened."""
    mask = draw(0)[1][0]
    path = write_coco(tmp_path, [rle(mask)])
    document = json.loads(path.read_text())
    document |= {"info": None, "licenses": None}
    document["annotations"][0]["image_id"] = "7"
    path.write_text(json.dumps(document))
    (tmp_path / "odd.json").write_text(json.dumps(document).replace('"7"', '"seven"'))

    assert_masks(open_source(path, str(tmp_path / "images")).read(0), [mask])
    with pytest.raises(InputError, match="no COCO instances file"):
        open_source(tmp_path / "odd.json", str(tmp_path / "images"))


def test_names_that_are_not_utf_8_work(tmp_path: Path):
    """As bytes of the JSON file itself, and as our own exports write them."""
    path = write_coco(tmp_path, [rle(draw(0)[1][0])])
    os.rename(tmp_path / "images" / "seven.png", os.fsencode(tmp_path / "images") + b"/s\xe4ven.png")
    text = path.read_bytes()
    path.write_bytes(text.replace(b"seven.png", b"s\xe4ven.png"))
    (tmp_path / "ours.json").write_bytes(
        text.replace(
            b'"file_name": "seven.png"', b'"file_name": "s?ven.png", "file_name_base64": "c+R2ZW4ucG5n"'
        )
    )

    for each in (path, tmp_path / "ours.json"):
        assert open_source(each, str(tmp_path / "images")).read(0).image_id == 7
