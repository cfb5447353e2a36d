"""A run from bucket to bucket: the same shards as on a disk, resumed, refused, looked at, exported."""

import json

import pytest

from pipelines.auto_annotate import run
from sam_engine.dataset.reader import open_dataset
from sam_engine.storage.open import open_store
from tests.helpers import fakes


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    fakes.write_images(folder / "a", 5)
    (folder / "a" / "broken.png").write_bytes(b"<html>404</html>")
    return folder


@pytest.fixture
def places(photos, s3, tmp_path):
    """The photos in a bucket, and a run of them on disk and in another bucket."""
    bucket = s3.new_bucket()
    client = s3.client()
    for path in sorted(photos.rglob("*.png")):
        client.upload_file(str(path), bucket, f"in/{path.relative_to(photos)}")
    return {
        "disk": fakes.run_settings(input=str(photos), output=str(tmp_path / "out"), **SETTINGS),
        "bucket": fakes.run_settings(
            input=f"s3://{bucket}/in", output=f"s3://{s3.new_bucket()}/sets/out", **SETTINGS
        ),
    }


SETTINGS = {"shard_size": 2, "max_failed_fraction": 1.0, "previews": 1, "amg__points_per_side": 1}


def test_a_bucket_holds_what_a_directory_would(places, capsys):
    """Shards, manifest paths, report, card, previews and errors; then there is nothing left to do."""
    for config in places.values():
        assert run(config, fakes.make_disc_segmenter) == 0
    disk, bucket = (open_store(config.output) for config in places.values())

    assert [n for n in bucket.list("") if "_meta/lock" not in n] == [
        n for n in disk.list("") if "lock" not in n
    ]
    for index in range(3):
        rows = [list(open_dataset(store.describe()).records(shards=[index])) for store in (disk, bucket)]
        assert rows[0] == rows[1]
    assert bucket.read("_meta/errors.jsonl") == disk.read("_meta/errors.jsonl")
    assert json.loads(bucket.read("_SUCCESS.json"))["num_images"] == 6
    capsys.readouterr()
    assert run(places["bucket"], fakes.make_disc_segmenter) == 0
    assert "nothing was left to do" in capsys.readouterr().out
