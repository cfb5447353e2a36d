"""tools.verify --repair: damaged and missing shards are made anew with their old bytes; others stay."""

import dataclasses
import json

import pytest

from pipelines.auto_annotate import run
from sam_engine.annotation.repair import repair_dataset
from sam_engine.config import AutoAnnotateConfig
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.run_info import config_yaml, read_config
from sam_engine.dataset.schema import MANIFEST, SUCCESS
from sam_engine.dataset.shards import shard_name
from sam_engine.dataset.verify import verify_dataset
from sam_engine.errors import FingerprintError, LockedError, ShardError
from sam_engine.storage.local import LocalStore
from tests.helpers import fakes


@pytest.fixture
def data(tmp_path):
    """A finished dataset of six images in three shards."""
    folder = fakes.write_images(tmp_path / "in", 6)
    config = fakes.run_settings(
        input=str(folder), output=str(tmp_path / "out"), shard_size=2, amg__points_per_side=1
    )
    assert run(config, fakes.make_disc_segmenter) == 0
    return tmp_path / "out"


def repair(data, **options):
    return repair_dataset(open_dataset(data), make_model=fakes.make_disc_segmenter, **options)


def flip(path, place=1000):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_only_damaged_and_missing_shards_are_made_again(data):
    """Same bytes as before; the whole shard keeps its inode; the damaged file is kept."""
    before, success = fakes.shard_bytes(data), (data / SUCCESS).read_bytes()
    whole = (data / shard_name(1)).stat().st_ino
    flip(data / shard_name(0))
    damaged = (data / shard_name(0)).read_bytes()
    (data / shard_name(2)).unlink()
    done = repair(data)

    assert done.recomputed == [shard_name(0), shard_name(2)]
    assert done.notes == []
    assert fakes.shard_bytes(data) == before
    assert (data / SUCCESS).read_bytes() == success
    assert (data / shard_name(1)).stat().st_ino == whole
    assert (data / "_meta/damaged/shard-000000.parquet.0").read_bytes() == damaged
    assert verify_dataset(open_dataset(data)).problems == []


def test_a_whole_shard_that_is_not_the_recorded_one_is_made_again(data):
    """Sound in itself, but not the file of which _SUCCESS.json has the digest."""
    before = fakes.shard_bytes(data)
    other = data.parent / "other"
    config = read_config((data / "_meta/config.yaml").read_bytes())
    assert run(dataclasses.replace(config, output=str(other)), fakes.make_troubled_segmenter) == 0
    document = json.loads((data / SUCCESS).read_text())
    document["shards"][shard_name(1)]["sha256"] = "0" * 64
    (data / SUCCESS).write_text(json.dumps(document))
    done = repair(data)

    assert done.recomputed == [shard_name(1)]
    assert done.notes == [f"{shard_name(1)} was made anew, but not with the sha256 that _SUCCESS.json had"]
    assert fakes.shard_bytes(data) == before


def test_a_wrong_success_file_alone_is_written_anew(data):
    """No shard is touched."""
    success, inodes = (data / SUCCESS).read_bytes(), [p.stat().st_ino for p in data.glob("annotations/*")]
    (data / SUCCESS).write_bytes(b"{")
    done = repair(data)

    assert done.recomputed == []
    assert (data / SUCCESS).read_bytes() == success
    assert [p.stat().st_ino for p in data.glob("annotations/*")] == inodes


def test_images_that_have_moved_can_be_named(data):
    """The same files elsewhere are the same input."""
    before = fakes.shard_bytes(data)
    (data.parent / "in").rename(data.parent / "moved")
    flip(data / shard_name(0))
    repair(data, input=str(data.parent / "moved"))

    assert fakes.shard_bytes(data) == before


def test_without_its_manifest_nothing_is_touched(data):
    """Nobody knows what the shards should hold; the damaged file stays where it is."""
    flip(data / MANIFEST, 100)
    flip(data / shard_name(0))

    with pytest.raises(ShardError, match=r"cannot be repaired: _meta/manifest.parquet"):
        repair(data)
    assert not (data / "_meta/damaged").exists()


def test_edited_settings_do_not_make_other_masks(data):
    """config.yaml may be edited by hand; the fingerprint says what the dataset was made with."""
    config = data / "_meta/config.yaml"
    config.write_text(config.read_text().replace("points_per_side: 1", "points_per_side: 2"))
    (data / shard_name(0)).unlink()

    with pytest.raises(FingerprintError, match="points_per_side"):
        repair(data)


def test_a_dataset_that_is_being_written_is_left_alone(data):
    """The lock is the run's."""
    flip(data / shard_name(0))

    with LocalStore(data).lock(), pytest.raises(LockedError):
        repair(data)


def test_what_was_set_aside_is_never_overwritten(tmp_path):
    """A second damaged file of one name gets the next number."""
    store = LocalStore(tmp_path)
    names = []
    for content in (b"first", b"second"):
        store.put_exclusive("annotations/a", content)
        names.append(store.set_aside("annotations/a"))

    assert names == ["_meta/damaged/a.0", "_meta/damaged/a.1"]
    assert [store.read(name) for name in names] == [b"first", b"second"]
    assert store.list("annotations/") == []


def test_bit_rot_before_the_end_is_not_sealed_by_success(data):
    """A shard that rots while a run is interrupted stops the end of the run, which reads it to digest it."""
    config = read_config((data / "_meta/config.yaml").read_bytes())
    (data / SUCCESS).unlink()
    (data / shard_name(2)).unlink()
    path = data / shard_name(0)
    flip(path, 100)

    with pytest.raises(ShardError, match="is not as it was written"):
        run(config, fakes.make_disc_segmenter)
    assert not (data / SUCCESS).exists()


CONFIGS = [
    AutoAnnotateConfig(),
    fakes.run_settings(input="a: b\n'c'", output="ü", amg__pred_iou_thresh=1e-7, limit=3, sample=0.5),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_is_read_as_it_was_written(config):
    """config.yaml and back, whatever the values."""
    assert read_config(config_yaml(config).encode()) == config


@pytest.mark.parametrize(
    "data_", [b"model", b"model:\n    x: 1\n", b"unknown: 1\n", b"seed: {\n", b"\xff: 1\n"]
)
def test_a_damaged_configuration_is_named(data_):
    """Half a file, another version's keys, bytes that are no text."""
    with pytest.raises(ShardError, match=r"_meta/config.yaml is damaged, or of another version"):
        read_config(data_)
