"""A run from bucket to bucket: the same shards as on a disk, resumed, looked at, corrected, derived."""

import json

import pytest

from pipelines.auto_annotate import run
from sam_engine.dataset.correction_log import CorrectionLog
from sam_engine.dataset.published import committed_shards
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError, ShardError
from sam_engine.evaluation.truth import open_truth
from sam_engine.storage import bucket as bucket_module
from sam_engine.storage.open import open_store
from tests.helpers import fakes
from tests.helpers.fault_proxy import FaultProxy
from tools.export import main as export
from tools.filter import main as filter_masks
from tools.stats import main as stats
from tools.status import main as status
from tools.verify import main as verify

SETTINGS = {"shard_size": 2, "max_failed_fraction": 1.0, "previews": 1, "amg__points_per_side": 1}


@pytest.fixture(scope="module")
def places(s3_server, tmp_path_factory):
    """The same photos annotated on a disk and from bucket to bucket; what requests the latter took."""
    folder, patch = tmp_path_factory.mktemp("runs"), pytest.MonkeyPatch()
    bucket, client = s3_server.new_bucket(), s3_server.client()
    photos = fakes.write_images(folder / "photos", 5)
    (photos / "broken.png").write_bytes(b"<html>404</html>")
    for path in photos.iterdir():
        client.upload_file(str(path), bucket, f"photos/{path.name}")
    disk = fakes.run_settings(input=str(photos), output=str(folder / "out"), **SETTINGS)
    url = f"s3://{bucket}"
    remote = fakes.run_settings(input=f"{url}/photos", output=f"{url}/sets/out", **SETTINGS)
    for name, value in s3_server.environment.items():
        patch.setenv(name, value)
    for config in (disk, remote):
        assert run(config, fakes.make_disc_segmenter) == 0
    patch.undo()
    return disk, remote


def test_a_bucket_holds_what_a_directory_would(s3, places):
    """The same objects, and the very same bytes in shards and lists of failures."""
    disk, bucket = (open_store(config.output) for config in places)
    others = ("_meta/lock", "corrections/")  # of tests before this one, the latter
    names = [[name for name in store.list("") if not name.startswith(others)] for store in (disk, bucket)]
    same = [name for name in names[0] if name.startswith("annotations/") or name.endswith(".jsonl")]

    assert names[0] == names[1]
    assert len(same) == 4
    assert [disk.read(name) for name in same] == [bucket.read(name) for name in same]
    assert json.loads(bucket.read("_SUCCESS.json"))["num_images"] == 6


def test_a_finished_run_has_nothing_to_do(s3, places, capsys):
    """And leaves no lock."""
    assert run(places[1], fakes.make_disc_segmenter) == 0
    assert "nothing was left to do" in capsys.readouterr().out
    assert open_store(places[1].output).list("_meta/tmp/") == []


def test_a_footer_is_one_request(s3, places, monkeypatch):
    """Sizes are known from the listing, and the end of a file is read as one."""
    fingerprint = open_dataset(places[1].output).fingerprint
    with FaultProxy(s3.address).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        bucket_module._client.cache_clear()
        found = committed_shards(open_store(places[1].output), fingerprint)
        bucket_module._client.cache_clear()

    assert len(found) == 3
    assert dict(proxy.requests) == {"LIST": 1, "GET": 3}


def test_tools_take_urls(s3, places, tmp_path, capsys):
    """Verify, status, stats; a correction is applied by exports, truth and what is derived into a bucket."""
    url = places[1].output
    assert [tool([url, "--json"]) for tool in (verify, status, stats)] == [0, 0, 0]
    documents = capsys.readouterr().out
    record = next(record for record in open_dataset(url).records() if record.annotations)
    CorrectionLog(url, by="Ada").delete(record.image_id, record.image_id * 65536)
    exported = [url, "--to", "coco", "--images", "--output", str(tmp_path / "coco.json")]

    assert '"is_finished": true' in documents
    assert export(exported) == 0
    assert len(list((tmp_path / "coco").iterdir())) == 5
    assert filter_masks([url, "--min-area", "1", "--output", f"{url}-filtered"]) == 0
    assert verify([f"{url}-filtered"]) == 0
    num_masks = open_dataset(url).num_masks
    assert open_dataset(f"{url}-filtered").num_masks == num_masks - 1
    assert sum(len(image.runs) for image in open_truth(url).first()) == num_masks - 1
    with pytest.raises(ConfigError, match="lies in"):
        filter_masks([url, "--min-area", "1", "--output", f"{url}/inside"])


def test_a_damaged_shard_is_refused_before_success(s3, places):
    """Found when footers are read at the end; what was made meanwhile is kept."""
    store = open_store(f"{places[1].output}-damaged")
    config = fakes.run_settings(input=places[1].input, output=store.describe(), **SETTINGS)
    store.replace("_meta/run.json", open_store(places[1].output).read("_meta/run.json"))
    store.replace("_meta/manifest.parquet", open_store(places[1].output).read("_meta/manifest.parquet"))
    store.replace("annotations/shard-000001.parquet", b"PAR1 and no more")

    with pytest.raises(ShardError, match=r"shard-000001.parquet: has no footer"):
        run(config, fakes.make_disc_segmenter)
    assert store.list("annotations/") == [f"annotations/shard-00000{number}.parquet" for number in range(3)]
    assert not store.has("_SUCCESS.json")


def test_an_output_in_its_input_is_refused(s3, places):
    """The next listing would find its previews."""
    with pytest.raises(ConfigError, match="lies inside input"):
        run(fakes.run_settings(input=places[1].input, output=f"{places[1].input}/out"))
