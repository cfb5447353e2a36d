"""What a run will do, before it does it."""

import json
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.auto_annotate import COMMAND, run
from pipelines.config import load
from sam_engine.annotation.plan import open_run
from sam_engine.annotation.preparation import prepare
from sam_engine.annotation.run import annotate_dataset
from sam_engine.errors import ConfigError, FingerprintError
from tests.helpers import fakes

FINGERPRINTS = {
    "tiny": (
        ["model=tiny", "amg=fast", "amg.pred_iou_thresh=0.5", "amg.stability_score_thresh=0.75"],
        "684f25a86a8944758291f9e20dabcd1364d5716ef1b2628f95cc163818b604e7",
    ),
    "vit_b": (["model=vit_b"], "c343a375b7ace90095147e366e9a6980110c2d809df1417a78a9fd74bfb03bc9"),
    "vit_h": (
        [
            "model=vit_h",
            "amg=sa1b",
            "model.precision=bf16",
            "decode.strict=false",
            "executor.threads_per_worker=2",
            "shard_size=7",
        ],
        "14c29bd926ba8b310202259427814ae90145d46376449b4de8cdd481601f4d7b",
    ),
}
"""As version 0.1.0 made them; tiny's since it looks at 800 pixels."""


@pytest.mark.parametrize("case", FINGERPRINTS)
def test_fingerprints_stay_what_they_were(case, tmp_path):
    """A dataset that an earlier version began is gone on with."""
    arguments, expected = FINGERPRINTS[case]
    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"{number:02d}.jpg").write_bytes(b"x" * (number + 1))
    arguments = [*arguments, f"input={tmp_path}/in", f"output={tmp_path}/out", "model.checkpoint=random"]

    assert open_run(prepare(load(COMMAND, arguments))).info.fingerprint == expected


def run_of(tmp_path, **settings):
    if not (tmp_path / "in").exists():
        fakes.write_images(tmp_path / "in", 4)
    return fakes.run_settings(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), shard_size=2, **settings
    )


def record(tmp_path):
    return json.loads((tmp_path / "out/_meta/run.json").read_text())


def test_an_output_without_shards_is_begun_anew(tmp_path):
    """A run that died before its first shard, or never had a device, stands in nobody's way."""
    open_run(prepare(run_of(tmp_path)))
    plan = open_run(prepare(run_of(tmp_path, amg__points_per_side=3)))

    assert record(tmp_path)["settings"]["amg.points_per_side"] == 3
    assert record(tmp_path)["fingerprint"] == plan.info.fingerprint
    assert run(run_of(tmp_path, amg__points_per_side=3), fakes.make_disc_segmenter) == 0


def test_an_output_whose_shards_are_set_aside_is_not(tmp_path):
    """It is being repaired, and what was damaged may be all there is of it."""
    assert run(run_of(tmp_path), fakes.make_disc_segmenter) == 0
    store = prepare(run_of(tmp_path)).store
    for name in store.list("annotations/"):
        store.set_aside(name)

    with pytest.raises(FingerprintError, match=r"amg\.points_per_side is 2 there and 3 here"):
        open_run(prepare(run_of(tmp_path, amg__points_per_side=3)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device here")
@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_a_device_that_is_not_there_leaves_nothing_behind(tmp_path, executor):
    """It is looked for before anything is written."""
    with pytest.raises(ConfigError, match=r"model\.device is 'cuda', but torch finds 0 CUDA devices"):
        prepare(run_of(tmp_path, model__device="cuda", executor__name=executor))
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_leaves_nothing_behind(tmp_path):
    """Likewise."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # ours, and nobody listens
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"executor\.address is '{address}': Ray does not answer"):
            prepare(run_of(tmp_path, executor__name="ray", executor__address=address))
    with pytest.raises(ConfigError, match="give host:port, or auto"):
        prepare(run_of(tmp_path, executor__name="ray", executor__address="head-node"))
    assert not (tmp_path / "out").exists()


def test_points_per_batch_may_change_on_the_way(tmp_path):
    """It changes no byte, so it decides nothing: it is not on record, and the run goes on."""
    first = open_run(prepare(run_of(tmp_path)))

    assert "amg.points_per_batch" not in record(tmp_path)["settings"]
    assert run(run_of(tmp_path), fakes.make_disc_segmenter) == 0
    assert open_run(prepare(run_of(tmp_path, amg__points_per_batch=5))).info == first.info


def test_datasets_with_points_per_batch_on_record_are_gone_on_with(tmp_path, monkeypatch):
    """Those of earlier versions, whatever the number was and is."""
    with monkeypatch.context() as patch:
        patch.setattr("sam_engine.dataset.run_info.NO_LONGER_DECIDING", {})
        assert run(run_of(tmp_path, amg__points_per_batch=16), fakes.make_disc_segmenter) == 0
    assert record(tmp_path)["settings"]["amg.points_per_batch"] == 16
    lost = tmp_path / "out/annotations/shard-000001.parquet"
    before = lost.read_bytes()
    lost.unlink()

    assert run(run_of(tmp_path, amg__points_per_batch=64), fakes.make_disc_segmenter) == 0
    assert lost.read_bytes() == before


@pytest.mark.parametrize("threads", [1, 2])
def test_points_per_batch_changes_no_byte(tmp_path, threads):
    """Not even where a batch is a single prompt, for which products have other kernels."""
    image = (
        np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    )
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in/blocks.png")
    digests = set()
    for number in (64, 1, 7):
        output = tmp_path / str(number)
        summary = annotate_dataset(
            input=tmp_path / "in",
            output=output,
            amg={
                "points_per_side": 6,
                "points_per_batch": number,
                "pred_iou_thresh": 0.0,
                "stability_score_thresh": 0.0,
            },
            executor={"name": "inline", "threads_per_worker": threads},
            previews=0,
        )
        assert summary.totals.num_masks > 20
        digests.add(fakes.shard_bytes(output)["shard-000000.parquet"])

    assert len(digests) == 1
