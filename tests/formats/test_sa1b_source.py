"""SA-1B read: what is read is what was annotated, or an error that names the place."""

import gzip
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sam_engine.errors import ImageError, InputError
from sam_engine.evaluation.truth import open_truth
from sam_engine.formats.open import open_source
from tests.helpers.drawn_data import NUM_IMAGES, assert_masks, draw, read_all, write_folder


def test_a_tar_is_read_in_any_order(drawn_tar: Path):
    """Images are found by number without unpacking; masks are exact, colours within JPEG's noise."""
    source = open_source(drawn_tar)

    assert (source.name, len(source)) == ("drawn", NUM_IMAGES)
    for index in (5, 0, 7):
        _, masks = draw(index)
        found = source.read(index)
        assert found.image_id == source.image_id(index) == 100 + index
        assert_masks(found, masks)
        assert found.pixels[masks[0]].mean(axis=0) == pytest.approx([250, 210, 60], abs=10)


def test_a_folder_holds_what_its_tar_holds(drawn_tar: Path, tmp_path: Path):
    """SA-1B unpacked gives the same images."""
    with tarfile.open(drawn_tar) as archive:
        archive.extractall(tmp_path / "folder", filter="data")
    folder = open_source(tmp_path / "folder")

    for found, expected in zip(read_all(folder), read_all(open_source(drawn_tar)), strict=True):
        assert found.image_id == expected.image_id
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        assert_masks(found, expected.masks)


def test_damaged_files_are_that_images_error(tmp_path: Path):
    """A cut image, annotations that are no JSON or of another image: named, and the others can be read."""
    folder = write_folder(tmp_path / "folder", 4)
    (folder / "sa_100.jpg").write_bytes((folder / "sa_100.jpg").read_bytes()[:500])
    (folder / "sa_101.json").write_text("{")
    (folder / "sa_102.json").write_bytes((folder / "sa_103.json").read_bytes())
    source = open_source(folder)

    for index, message in ((0, "ends|truncated|decoder"), (1, r"sa_101\.json"), (2, "names image 103")):
        with pytest.raises(ImageError, match=message):
            source.read(index)
    assert source.read(3).image_id == 103


def keep_images(source) -> list:
    """Return the ids and the pixels of all images."""
    return [(image.image_id, image.pixels.tobytes(), len(image.runs)) for image in read_all(source)]


@pytest.mark.parametrize("kind", ["gzip", "nested", "many", "range", "zip"])
def test_sa1b_is_read_as_it_is_shipped(drawn_tar: Path, tmp_path: Path, monkeypatch, kind: str):
    """Gzip under a plain name, unpacked into a folder, many tars, a range of them, a zip: the same images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    place = tmp_path / "in"
    if kind == "gzip":
        place = place / "sa_000000.tar"
        place.write_bytes(gzip.compress(drawn_tar.read_bytes()))
    elif kind == "nested":
        write_folder(place / "sa_000000")
    elif kind == "zip":
        place = place / "sa.zip"
        write_folder(tmp_path / "folder")
        with zipfile.ZipFile(place, "w") as archive:
            for path in (tmp_path / "folder").iterdir():
                archive.write(path, path.name)
    else:
        with tarfile.open(drawn_tar) as whole:
            members = whole.getmembers()
            for number in range(2):
                with tarfile.open(place / f"sa_{number:06d}.tar", "w") as part:
                    for member in members[number * 8 : number * 8 + 8]:
                        part.addfile(member, whole.extractfile(member))
        place = place if kind == "many" else place / "sa_{000000..000001}.tar"

    assert keep_images(open_source(place)) == keep_images(open_source(drawn_tar))
    assert open_truth(place).source.image_id(0) == 100


def test_a_tar_that_is_not_whole_is_no_source(drawn_tar: Path, tmp_path: Path):
    """Training and scores on a part of a set would not say so."""
    (tmp_path / "x.tar").write_bytes(drawn_tar.read_bytes()[:-20480])

    with pytest.raises(InputError, match="is not whole"):
        open_source(tmp_path / "x.tar")
