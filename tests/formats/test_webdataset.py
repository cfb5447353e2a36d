"""WebDataset's tars: samples by id, the same bytes every time, read by its own reader."""

import json
import tarfile

import pytest

from sam_engine.dataset.originals import open_originals
from sam_engine.dataset.reader import open_dataset
from sam_engine.formats.export import export_dataset
from sam_engine.formats.open import open_source
from tests.helpers.dataset_builder import image, rectangle_mask, write_dataset
from tests.helpers.drawn_data import write_our_dataset


@pytest.fixture
def exported(tmp_path):
    """A dataset with images, and its tars."""
    dataset = open_dataset(write_our_dataset(tmp_path / "data", 2))
    export_dataset(dataset, tmp_path / "wds", to="webdataset", originals=open_originals(dataset.run_info))
    return dataset, tmp_path / "wds"


def test_keys_are_ids_and_never_names(tmp_path):
    """Not even where names would merge into one sample, or lead out of the folder."""
    masks = [rectangle_mask(24, 32, 1, 1, 4, 4)]
    write_dataset(tmp_path / "data", [image(0, b"../a.b.jpg", masks), image(1, b"../a.c.jpg", masks)])
    export_dataset(open_dataset(tmp_path / "data"), tmp_path / "wds", to="webdataset")
    with tarfile.open(tmp_path / "wds/shard-000000.tar") as tar:
        members = tar.getmembers()

    assert [member.name for member in members] == ["000000000000.json", "000000000001.json"]
    assert {(member.mode, member.uid, member.gid, member.mtime) for member in members} == {(0o644, 0, 0, 0)}


def test_the_json_names_its_image(exported):
    """By the name that it has in the tar."""
    _, folder = exported
    with tarfile.open(folder / "shard-000000.tar") as tar:
        names = tar.getnames()
        document = json.load(tar.extractfile("000000000000.json"))

    assert names[:2] == ["000000000000.jpg", "000000000000.json"]
    assert document["image"]["file_name"] == "000000000000.jpg"


def test_the_same_dataset_gives_the_same_bytes(exported, tmp_path):
    """No time, owner or host is in them."""
    dataset, folder = exported
    export_dataset(dataset, tmp_path / "again", to="webdataset", originals=open_originals(dataset.run_info))

    assert (tmp_path / "again/shard-000000.tar").read_bytes() == (folder / "shard-000000.tar").read_bytes()


def test_training_reads_the_tars(exported):
    """They are a source like SA-1B's."""
    dataset, folder = exported
    source = open_source(folder / "shard-000000.tar")
    record = next(iter(dataset.records()))

    assert len(source) == dataset.num_images
    assert source.read(0).image_id == record.image_id
    assert len(source.read(0).runs) == len(record.annotations)
