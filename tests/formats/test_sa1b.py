"""Exports in SA-1B's form: its keys, order and types; images upright and provably the annotated ones."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sam_engine.dataset.originals import open_originals
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError, ImageError, InputError, ShardError, StorageError
from sam_engine.formats.export import export_dataset
from sam_engine.formats.sa1b import image_json
from sam_engine.structures import ImageRecord, ImageStatus
from tests.helpers.dataset_builder import (
    annotation,
    failed,
    image,
    rectangle_mask,
    sample_records,
    write_dataset,
)


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path / "data", sample_records())
    return open_dataset(tmp_path / "data")


def test_json_is_byte_for_byte_as_expected():
    """One compact line, SA-1B's order of keys, boxes and points as floats, counts as text."""
    record = image(7, b"x.png")
    mask = replace(annotation(rectangle_mask(24, 32, 2, 3, 10, 6)), id=7 * 65536)

    assert image_json(record, [mask], file_name="sa_7.jpg") == (
        b'{"image":{"image_id":7,"width":32,"height":24,"file_name":"sa_7.jpg","original_name":"x.png"},'
        b'"annotations":[{'
        b'"bbox":[2.0,3.0,9.0,5.0],"area":60,'
        b'"segmentation":{"size":[24,32],"counts":"c16b000000000000000000m>"},'
        b'"predicted_iou":0.95,"point_coords":[[2.5,3.5]],"crop_box":[0.0,0.0,32.0,24.0],'
        b'"id":458752,"stability_score":0.96875}]}'
    )


def test_numbers_keep_their_types():
    """Whole numbers in a record's boxes still become JSON floats, and scores keep all their digits."""
    mask = rectangle_mask(24, 32, 2, 3, 10, 6)
    score = float(np.float32(0.9783458709716797))
    whole = replace(annotation(mask), bbox=(2, 3, 9, 5), predicted_iou=score)
    document = json.loads(image_json(image(0, b"a"), [whole], file_name="sa_0.jpg"))
    exported = document["annotations"][0]

    assert all(isinstance(value, float) for value in exported["bbox"])
    assert exported["predicted_iou"] == 0.9783458709716797


def test_annotated_images_are_written_and_failed_ones_are_not(dataset, tmp_path):
    """Every annotated image has its file, also without masks; failures are counted."""
    summary = export_dataset(dataset, tmp_path / "out", to="sa1b")
    files = sorted(path.name for path in (tmp_path / "out").iterdir())

    assert files == ["sa_0.json", "sa_2.json", "sa_3.json", "sa_4.json"]
    assert (summary.num_images, summary.num_masks, summary.num_failed, summary.num_copies) == (4, 4, 1, 0)
    assert json.loads((tmp_path / "out/sa_2.json").read_text())["annotations"] == []


def test_a_tar_per_shard_holds_the_same_files(dataset, tmp_path):
    """Flat, in order of ids, owned by nobody at time 0."""
    export_dataset(dataset, tmp_path / "folder", to="sa1b")
    export_dataset(dataset, tmp_path / "tars", to="sa1b", tar=True)
    members = {}
    for path in sorted((tmp_path / "tars").iterdir()):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (
                    0,
                    0,
                    0,
                    "",
                    0o644,
                )
                members[member.name] = tar.extractfile(member).read()

    assert [path.name for path in sorted((tmp_path / "tars").iterdir())] == [
        "sa_000000.tar",
        "sa_000001.tar",
        "sa_000002.tar",
    ]
    assert members == {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    assert list(members) == ["sa_0.json", "sa_2.json", "sa_3.json", "sa_4.json"]


def test_the_same_dataset_gives_the_same_tars(dataset, tmp_path):
    """Nothing of the moment gets into a tar."""
    for name in ("one", "two"):
        export_dataset(dataset, tmp_path / name, to="sa1b", tar=True)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")
    )

    assert one == two


@pytest.fixture
def photos(tmp_path):
    """Two photos, the second stored on its side, and a dataset that was made of them and of a third one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    upright = np.kron(rng.integers(0, 256, (3, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(upright).save(folder / "a.png")
    on_its_side = Image.fromarray(np.rot90(upright))  # a quarter turn to the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    on_its_side.save(folder / "b.jpg", quality=95, subsampling=0, exif=exif)
    Image.fromarray(upright[:8, :8]).save(folder / "c.png")
    digests = [
        hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("a.png", "b.jpg", "c.png")
    ]
    mask = rectangle_mask(24, 32, 2, 3, 10, 6)
    records = [
        replace(image(0, b"a.png", [mask]), sha256=digests[0]),
        replace(image(1, b"b.jpg", [mask]), sha256=digests[1], exif_orientation=6),
        replace(image(2, b"c.png", size=(8, 8)), sha256=digests[2]),
        failed(3, b"d.png"),
    ]
    write_dataset(tmp_path / "data", records, input_root=str(folder))
    return folder, upright, open_dataset(tmp_path / "data")


def read_jpeg(path):
    with Image.open(path) as file:
        return np.asarray(file), dict(file.getexif())


def test_copies_are_upright_jpegs_without_metadata(photos, tmp_path):
    """A PNG and a turned JPEG both become what their masks refer to."""
    _, upright, dataset = photos
    summary = export_dataset(dataset, tmp_path / "out", to="sa1b", originals=open_originals(dataset.run_info))
    a, exif_a = read_jpeg(tmp_path / "out/sa_0.jpg")
    b, exif_b = read_jpeg(tmp_path / "out/sa_1.jpg")

    assert (summary.num_copies, summary.missing) == (3, {})
    assert (exif_a, exif_b) == ({}, {})
    assert np.abs(a.astype(int) - upright).mean() < 3  # JPEG at quality 95 measured 0.7
    assert np.abs(b.astype(int) - upright).mean() < 5  # twice


def test_images_that_moved_are_found(photos, tmp_path):
    """--images names another place; a new modification time does not matter, the bytes do."""
    folder, _, dataset = photos
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
        path.unlink()
    summary = export_dataset(
        dataset, tmp_path / "out", to="sa1b", originals=open_originals(dataset.run_info, str(moved))
    )

    assert summary.num_copies == 3


def test_missing_and_changed_images_have_annotations_only(photos, tmp_path):
    """An image that is gone, or is another one now, is counted and not copied."""
    folder, _, dataset = photos
    (folder / "a.png").unlink()
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes() + b"more")
    summary = export_dataset(dataset, tmp_path / "out", to="sa1b", originals=open_originals(dataset.run_info))

    assert (summary.num_images, summary.num_copies) == (3, 1)
    assert summary.missing == {"changed": 1, "vanished": 1}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "sa_0.json",
        "sa_1.jpg",
        "sa_1.json",
        "sa_2.json",
    ]


def test_an_image_of_another_size_is_not_copied(photos, tmp_path):
    """A row that does not fit its own file would put masks beside the wrong pixels."""
    _, _, dataset = photos
    records = list(dataset.records())
    records[2] = replace(records[2], width=4, height=16)
    write_dataset(tmp_path / "other", records, input_root=str(tmp_path / "photos"))
    other = open_dataset(tmp_path / "other")
    summary = export_dataset(other, tmp_path / "out", to="sa1b", originals=open_originals(other.run_info))

    assert summary.missing in ({"changed": 1}, {"too_large": 1})


def test_a_dataset_that_names_no_input_says_so():
    """There is nothing to guess."""
    with pytest.raises(InputError, match="does not say where its images are"):
        open_originals({"fingerprint": "f"})


def test_an_output_in_use_is_refused(dataset, tmp_path):
    """Two exports are not mixed, and nothing is overwritten."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ConfigError, match="out exists"):
        export_dataset(dataset, tmp_path / "out", to="sa1b")
    with pytest.raises(ConfigError, match="file exists"):
        export_dataset(dataset, tmp_path / "file", to="sa1b")


def test_an_empty_folder_is_used(dataset, tmp_path):
    """The user may have made it."""
    (tmp_path / "out").mkdir()

    assert export_dataset(dataset, tmp_path / "out", to="sa1b").num_images == 4


def test_a_place_that_cannot_be_written_is_a_storage_error(dataset, tmp_path):
    """With the path in the message."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StorageError, match="file"):
        export_dataset(dataset, tmp_path / "file" / "below", to="sa1b")


def test_an_interrupted_tar_does_not_appear(dataset, tmp_path):
    """A damaged dataset stops the export; the folder gets its name when all is whole."""
    path = tmp_path / "data/annotations/shard-000001.parquet"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError):
        export_dataset(dataset, tmp_path / "out", to="sa1b", tar=True)

    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_pycocotools_decodes_the_masks(dataset, tmp_path):
    """The oracle reads counts as they are exported."""
    export_dataset(dataset, tmp_path / "out", to="sa1b", tar=True)
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "out/sa_000000.tar").read_bytes())) as tar:
        document = json.load(tar.extractfile("sa_0.json"))
    decoded = [coco_mask.decode(item["segmentation"]) for item in document["annotations"]]

    assert np.array_equal(decoded[0], rectangle_mask(24, 32, 2, 3, 10, 6))
    assert np.array_equal(decoded[1], rectangle_mask(24, 32, 30, 20, 2, 4))


def test_failed_images_are_never_copied(photos, tmp_path):
    """A failed image's record has no size to be copied in."""
    _, _, dataset = photos
    record = ImageRecord(image_id=0, path=b"a.png", status=ImageStatus.CORRUPT)
    originals = open_originals(dataset.run_info)

    with pytest.raises(ImageError, match="size is not known"):
        originals.pixels(record)
