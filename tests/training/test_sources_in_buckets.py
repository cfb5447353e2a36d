"""Sources of training in an object store: packed as on a disk, known again, and held out from themselves."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from sam_engine.errors import ConfigError
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data.provenance import digest_of, same_content
from sam_engine.training.prepare import prepare_run
from tests.helpers.drawn_data import write_tar


@pytest.fixture
def places(s3, bucket_url, tmp_path: Path) -> dict[str, str]:
    """A folder on this machine and one in a bucket, ``train`` with two tars in each."""
    (tmp_path / "train").mkdir()
    write_tar(tmp_path / "train" / "a.tar")
    write_tar(tmp_path / "train" / "b.tar", range(8, 10))
    shutil.copy(tmp_path / "train" / "a.tar", tmp_path / "copy.tar")
    for name in ("train/a.tar", "train/b.tar"):
        upload(s3, bucket_url, tmp_path / name, name)
    return {"disk": str(tmp_path), "bucket": bucket_url}


def upload(s3, url: str, path: Path, name: str) -> None:
    s3.client().upload_file(str(path), url.removeprefix("s3://"), name)


def settings(output: str, source: str, **changes: object) -> TrainConfig:
    return TrainConfig(output=output, data=DataConfig(sources=[source], short_side=96, **changes))


def columns_of(output: str) -> dict[str, np.ndarray]:
    """Return what was packed, but for where it is from."""
    with np.load(f"{output}/packed.npz") as file:
        return {name: file[name] for name in file.files if name != "made_of"}


def test_a_tar_in_a_bucket_is_packed_as_one_on_a_disk(places):
    """Array by array; the same run goes on, by what the object's size and time say."""
    outputs = [f"{places['disk']}/{where}-run" for where in places]
    for output, root in zip(outputs, places.values(), strict=True):
        prepare_run(settings(output, f"{root}/train/a.tar"))
        prepare_run(settings(output, f"{root}/train/a.tar"))
    disk, bucket = map(columns_of, outputs)

    assert disk.keys() == bucket.keys()
    assert all(np.array_equal(disk[name], bucket[name]) for name in disk)


def test_an_object_with_other_bytes_is_another_source(s3, places):
    """As a file is; also where a pattern names it."""
    sources = [f"{places['bucket']}/train/{name}" for name in ("a.tar", "?.tar")]
    outputs = [f"{places['disk']}/run-{number}" for number in range(2)]
    for output, source in zip(outputs, sources, strict=True):
        prepare_run(settings(output, source))
    upload(s3, places["bucket"], Path(places["disk"]) / "train/b.tar", "train/a.tar")

    for output, source in zip(outputs, sources, strict=True):
        with pytest.raises(ConfigError, match=r"\.tar in sources is not the one that was packed"):
            prepare_run(settings(output, source))


@pytest.mark.parametrize(
    ("source", "held_out", "is_same"),
    [
        ("bucket/train/a.tar", "bucket/train/a.tar", True),
        ("bucket/train", "bucket/train/a.tar", True),
        ("bucket/train/*.tar", "bucket/train/a.tar", True),
        ("bucket/train/a.tar", "bucket/train/", True),
        ("bucket/tr*/{a,c}.tar", "bucket/train/a.tar", True),
        ("bucket", "bucket/train", True),
        ("bucket/train/a.tar", "disk/copy.tar", True),
        ("disk/train", "bucket/train", True),
        ("disk/train/*.tar", "bucket/train/b.tar", True),
        ("bucket/train/a.tar", "bucket/train/b.tar", False),
        ("disk/copy.tar", "bucket/train/b.tar", False),
        ("bucket/train/[c-z].tar", "bucket/train/a.tar", False),
    ],
)
def test_what_is_held_out_is_found_in_buckets_too(places, source, held_out, is_same):
    """By name, by folder, by pattern; and by its bytes where only one of the two is in a bucket."""
    paths = []
    for place in (source, held_out):
        root, _, name = place.partition("/")
        paths.append(f"{places[root]}/{name}" if name else places[root])

    assert bool(same_content(paths[:1], paths[1:])) == is_same


def test_what_is_in_no_bucket_has_no_digest(places):
    """An object, a folder, a pattern."""
    names = ("c.tar", "folder/", "c*.tar")

    assert [digest_of(f"{places['bucket']}/{name}") for name in names] == [None] * 3


def test_a_folder_has_one_digest_wherever_it_lies(places):
    """Names and sizes."""
    disk, bucket = (digest_of(f"{root}/train") for root in places.values())

    assert disk == bucket


def test_a_table_of_licences_may_be_an_object(s3, places, tmp_path: Path):
    """Its images are chosen by it as by a file."""
    table = tmp_path / "licences.csv"
    table.write_text("image_id,licence\n100,CC0\n101,CC0\n102,CC BY-NC\n")
    upload(s3, places["bucket"], table, "licences.csv")
    source = f"{places['bucket']}/train/a.tar"
    for number, where in enumerate((str(table), f"{places['bucket']}/licences.csv")):
        chosen = settings(f"{tmp_path}/run-{number}", source, sources_csv=where, licences=["CC0"])
        prepare_run(chosen)
    first, second = (columns_of(f"{tmp_path}/run-{number}")["image_id"].tolist() for number in range(2))

    assert first == second == [100, 101]
