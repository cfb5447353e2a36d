"""Inputs are the sum of all statuses, at the end of every run."""

from dataclasses import replace

import pytest

import sam_engine.annotation.run
from pipelines.auto_annotate import run
from sam_engine.annotation.report import check_accounts
from sam_engine.dataset.manifest import cut_shards
from sam_engine.dataset.shards import ShardSummary
from sam_engine.errors import ShardError
from sam_engine.structures import Shard
from tests.helpers import fakes

PLANNED = cut_shards(5, 2)
PUBLISHED = {
    shard.index: ShardSummary(shard=shard, statuses={"ok": shard.num_images}, num_masks=0, num_bytes=1)
    for shard in PLANNED
}


def test_sound_accounts_pass():
    """All published, or given up for a reason."""
    check_accounts(PLANNED, PUBLISHED, ())
    check_accounts(PLANNED, {0: PUBLISHED[0]}, {1, 2})


WRONG = {
    "lost": ({0: PUBLISHED[0], 1: PUBLISHED[1]}, "shard-000002.parquet with images 4 to 4 was neither"),
    "other images": (
        {**PUBLISHED, 1: replace(PUBLISHED[1], shard=Shard(index=1, start=1, stop=3))},
        "shard-000001.parquet holds images 1 to 2; it was to hold images 2 to 3",
    ),
    "miscounted": ({**PUBLISHED, 0: replace(PUBLISHED[0], statuses={"ok": 1})}, "has 1 statuses for images"),
    "unplanned": (
        {**PUBLISHED, 3: replace(PUBLISHED[0], shard=Shard(index=3, start=0, stop=2))},
        "shard-000003.parquet belongs to no images",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_accounts_are_named(case):
    """A lost shard, one of other images, one too many, and one that miscounts."""
    published, message = WRONG[case]

    with pytest.raises(ShardError, match=message):
        check_accounts(PLANNED, published, ())


def test_a_run_that_loses_a_shard_does_not_end_well(tmp_path, monkeypatch):
    """A bug that forgets a shard cannot end with exit 0, nor with _SUCCESS.json."""
    fakes.write_images(tmp_path / "in", 4)
    config = fakes.run_settings(input=str(tmp_path / "in"), output=str(tmp_path / "out"), shard_size=2)
    committed = sam_engine.annotation.run.committed_shards
    monkeypatch.setattr(
        sam_engine.annotation.run, "committed_shards", lambda *args: dict(list(committed(*args).items())[1:])
    )

    with pytest.raises(
        ShardError, match=r"shard-000000.parquet with images 0 to 1 was neither published nor"
    ):
        run(config, fakes.make_disc_segmenter)
    assert not (tmp_path / "out/_SUCCESS.json").exists()
