"""Datasets that hold their images: complete without their input, and no byte of others changed by it."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.auto_annotate import run
from sam_engine.annotation.repair import repair_dataset
from sam_engine.config import DecodeConfig
from sam_engine.dataset.hidden import HIDDEN, hidden_in
from sam_engine.dataset.originals import open_images
from sam_engine.dataset.reader import open_dataset, read_tables
from sam_engine.dataset.rewrite.operations import filter_dataset
from sam_engine.dataset.rewrite.parents import open_parent
from sam_engine.dataset.rewrite.rules import Rules
from sam_engine.dataset.row_problems import record_problems
from sam_engine.dataset.schema import table_to_records
from sam_engine.dataset.shards import encode_shard, shard_name
from sam_engine.dataset.verify import verify_dataset
from sam_engine.errors import ConfigError, FingerprintError
from sam_engine.images.decode import decode_image
from sam_engine.privacy.blur import region_of
from sam_engine.structures import Shard
from sam_engine.web.pictures import Pictures
from tests.helpers import fakes

BOX_XYWH = (16.0, 20.0, 20.0, 16.0)
"""In pixels of the upright image of a.jpg, which has 60 x 80 (width, height)."""


def write_photos(folder):
    """a.jpg lies on its side and says where it was taken; b.png is noise; z.png is no image."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "SECRETMAKER"
    smooth = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    Image.fromarray(smooth).save(folder / "a.jpg", quality=95, exif=exif)
    Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(folder / "b.png")
    (folder / "z.png").write_bytes(b"no image at all")


def settings_of(root, name="out", **more):
    return fakes.run_settings(
        input=str(root / "in"), output=str(root / name), max_failed_fraction=1.0, **more
    )


def boxes_in(root, box=BOX_XYWH, name="a.jpg"):
    path = root / "boxes.csv"
    path.write_text("file_name,x,y,width,height\n{},{},{},{},{}\n".format(name, *box))
    return {"privacy__blur": "boxes", "privacy__boxes": str(path)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """in/ and three datasets of it: plain, stored, and hidden, which is stored with a box blurred."""
    root = tmp_path_factory.mktemp("stored")
    write_photos(root / "in")
    for name, more in {
        "plain": {},
        "stored": {"store_images": True},
        "hidden": {"store_images": True, **boxes_in(root)},
    }.items():
        assert run(settings_of(root, name, **more), fakes.make_disc_segmenter) == 0
    return root


def stored_in(dataset):
    """What each row holds."""
    [table] = read_tables(dataset.store, shard_name(0), images=True)
    return [cell and cell["bytes"] for cell in table["image"].to_pylist()]


def test_rows_hold_upright_jpegs_without_metadata(root):
    """Nearly the pixels that were annotated, turned; nothing of the camera; none of what is no image."""
    dataset = open_dataset(root / "stored")
    first, second, none = stored_in(dataset)
    shown = decode_image((root / "in/a.jpg").read_bytes(), DecodeConfig()).pixels

    assert verify_dataset(dataset).problems == []
    assert none is None
    assert Image.open(io.BytesIO(second)).size == (40, 50)
    assert Image.open(io.BytesIO(first)).size == (60, 80)
    assert np.abs(np.asarray(Image.open(io.BytesIO(first))).astype(int) - shown).mean() < 2  # JPEG
    assert not Image.open(io.BytesIO(first)).getexif()
    assert b"SECRETMAKER" in (root / "in/a.jpg").read_bytes()
    assert b"SECRETMAKER" not in b"".join(path.read_bytes() for path in (root / "stored").rglob("*.*"))


def test_masks_are_those_of_a_dataset_without(root):
    """Storing, and blurring what is stored, changes no mask: the model sees the image as it is."""
    plain, *others = (open_dataset(root / name) for name in ("plain", "stored", "hidden"))

    assert plain.extras == ()
    for other in others:
        assert list(other.records()) == list(plain.records())
        assert other.extras == ("image",)


def test_the_setting_is_in_the_fingerprint_where_it_is_on(root):
    """Rows with images, or with other ones, are other rows; a dataset without says nothing of it."""
    prints = [open_dataset(root / name).fingerprint for name in ("plain", "stored", "hidden")]

    assert len(set(prints)) == 3
    assert "store_images" not in open_dataset(root / "plain").run_info["settings"]
    with pytest.raises(FingerprintError, match=r"privacy\.sha256 is null there"):
        run(settings_of(root, "stored", store_images=True, **boxes_in(root)), fakes.make_disc_segmenter)


def test_a_region_that_is_hidden_is_hidden_in_what_is_stored(root):
    """The box differs from what was not blurred, everything beyond its blocks of JPEG does not."""
    seen, hidden = (stored_in(open_dataset(root / name))[0] for name in ("stored", "hidden"))
    changed = np.abs(
        np.subtract(*(np.asarray(Image.open(io.BytesIO(each))).astype(int) for each in (seen, hidden)))
    )
    left, top, right, bottom = region_of(np.array(BOX_XYWH), (80, 60))
    outside = np.ones((80, 60), bool)
    outside[top // 8 * 8 : -(-bottom // 8) * 8, left // 8 * 8 : -(-right // 8) * 8] = False

    assert (changed[top:bottom, left:right].max(axis=2) > 0).mean() > 0.9
    assert changed[outside].max() == 0


def test_images_are_had_without_the_input(root, tmp_path):
    """Viewer and exports read what is stored; a copy of it is that, byte for byte."""
    shutil.copytree(root / "stored", tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    dataset = open_dataset(tmp_path / "out")
    dataset.run_info["selection"]["input"] = str(tmp_path / "gone")
    record = next(dataset.records())
    images = open_images(dataset)

    assert images.source is None
    assert images.jpeg(record) == stored_in(dataset)[0]
    assert np.array_equal(Pictures(dataset).pixels(record), images.pixels(record))


def test_what_is_derived_holds_them_too(root, tmp_path):
    """And keeps what is hidden, for who shows its images from their source."""
    filter_dataset(open_parent(root / "hidden"), tmp_path / "child", Rules())
    child = open_dataset(tmp_path / "child")

    assert verify_dataset(child).problems == []
    assert stored_in(child) == stored_in(open_dataset(root / "hidden"))
    assert hidden_in(child.store).boxes.keys() == {b"a.jpg"}


def test_a_box_that_does_not_fit_leaves_its_image_out_with_a_reason(tmp_path):
    """What it was meant to cover would be stored; masks and row are there all the same."""
    write_photos(tmp_path / "in")
    more = boxes_in(tmp_path, (200.0, 1.0, 5.0, 5.0))
    assert run(settings_of(tmp_path, store_images=True, **more), fakes.make_disc_segmenter) == 0
    dataset = open_dataset(tmp_path / "out")
    first = next(dataset.records())

    assert stored_in(dataset)[0] is None
    assert first.annotations
    assert "not stored" in first.error
    assert verify_dataset(dataset).problems == []
    assert open_images(dataset).source is None  # where it can be seen


def test_a_damaged_shard_is_made_again_to_the_byte(root, tmp_path):
    """Also when the table of boxes is gone: the dataset keeps it."""
    shutil.copytree(root / "hidden", tmp_path / "out")
    (root / "boxes.csv").unlink()
    shard = tmp_path / "out/annotations/shard-000000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    repair_dataset(open_dataset(tmp_path / "out"), make_model=fakes.make_disc_segmenter)

    assert shard.read_bytes() == whole
    assert (tmp_path / "out" / HIDDEN).read_bytes() == (root / "hidden" / HIDDEN).read_bytes()


def test_row_groups_end_with_sixteen_megabytes_of_images(tmp_path, monkeypatch):
    """So that a reader of one image reads little else."""
    monkeypatch.setattr("sam_engine.dataset.schema.GROUP_IMAGE_BYTES", 5_000)
    write_photos(tmp_path / "in")
    assert run(settings_of(tmp_path, store_images=True), fakes.make_disc_segmenter) == 0
    file = pq.ParquetFile(tmp_path / "out/annotations/shard-000000.parquet")
    dataset = open_dataset(tmp_path / "out")
    images = open_images(dataset)

    assert file.num_row_groups == 2
    assert [images.pixels(row).shape[:2] for row in dataset.records() if row.width] == [(80, 60), (50, 40)]


def test_datasets_loads_the_column_as_images(root, tmp_path):
    """As the card says, without a word on features."""
    datasets = pytest.importorskip("datasets", reason="comes with the extra test")
    files = str(root / "stored/annotations/*.parquet")
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))

    assert isinstance(rows.features["image"], datasets.Image)
    assert [row["image"] and row["image"].size for row in rows] == [(60, 80), (40, 50), None]


def test_images_too_long_for_jpeg_are_refused_before_anything_is_written(tmp_path):
    """They would fail one by one."""
    with pytest.raises(ConfigError, match=r"decode\.max_side"):
        settings_of(tmp_path, store_images=True, decode__max_side=65_501)


def jpeg_of(size, **more):
    data = io.BytesIO()
    Image.new("RGB", size).save(data, **{"format": "JPEG", **more})
    return data.getvalue()


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        (b"no image at all", "its stored image is none: "),
        (jpeg_of((40, 50), format="PNG"), "its stored image is PNG; JPEG is stored"),
        (jpeg_of((50, 40)), "its stored image is 50 x 40, not 40 x 50"),
        (jpeg_of((40, 50)), None),
        (jpeg_of((40, 50), exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00"), "carries EXIF"),
    ],
    ids=["no-image", "png", "turned", "sound", "exif"],
)
def test_a_stored_image_that_is_not_what_it_must_be_is_named(root, stored, problem):
    """Before it is published, and by who verifies; a reader of it gets an error and not that image."""
    record = list(open_dataset(root / "stored").records())[1]
    problems = list(record_problems(replace(record, image=stored)))

    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]


def test_an_image_that_is_not_stored_without_a_word_is_named(root, tmp_path):
    """The settings say that all are; a row without its image must say why."""
    shutil.copytree(root / "stored", tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    [table] = read_tables(dataset.store, shard_name(0), images=True)
    records = [replace(record, image=None) for record in table_to_records(table)]
    shard = Shard(index=0, start=0, stop=3)
    data = encode_shard(records, shard=shard, fingerprint=dataset.fingerprint, extras=["image"])
    dataset.store.replace(shard_name(0), data)
    problems = verify_dataset(open_dataset(tmp_path / "out")).problems

    assert sum("is not stored, and its row does not say why" in problem for problem in problems) == 2
