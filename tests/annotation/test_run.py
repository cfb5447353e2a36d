"""The library annotates: `sam_engine.annotate_dataset`, as a notebook would call it."""

import pytest
import torch

import sam_engine
from sam_engine.annotation.plan import Plan
from sam_engine.errors import ConfigError
from sam_engine.structures import ShardProgress, ShardReport
from tests.helpers import fakes

SMALL = {"amg": {"points_per_side": 2}, "executor": "inline", "previews": 0}


def annotate(tmp_path, **settings):
    fakes.write_images(tmp_path / "in", 4)
    settings = {
        "input": tmp_path / "in",
        "output": tmp_path / "out",
        "model": {"checkpoint": "random"},
    } | settings
    return sam_engine.annotate_dataset(make_model=fakes.make_disc_segmenter, **SMALL, **settings)


def test_a_call_makes_a_dataset(tmp_path):
    """Paths, mappings and names will do; the summary says what is there."""
    summary = annotate(tmp_path)

    dataset = sam_engine.open_dataset(summary.output)
    assert (summary.exit_code, summary.num_images, dataset.num_images) == (0, 4, 4)
    assert summary.totals.num_masks == dataset.num_masks > 4


def test_events_tell_the_plan_then_every_image_then_the_shard(tmp_path):
    """In the order in which they happen: a bar can be drawn from them."""
    events = []
    annotate(tmp_path, on_event=events.append)

    assert [type(event) for event in events] == [Plan, *[ShardProgress] * 5, ShardReport]
    assert [event.num_done for event in events[1:-1]] == [0, 1, 2, 3, 4]


def test_a_callback_that_raises_stops_the_run_and_the_same_call_goes_on(tmp_path):
    """What is published stays; the next call makes what is missing."""

    def stop(event):
        if isinstance(event, ShardReport):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate(tmp_path, shard_size=2, on_event=stop)
    assert len(fakes.shard_bytes(tmp_path / "out")) == 1

    assert annotate(tmp_path, shard_size=2).session.num_images == 2


def test_the_callers_torch_keeps_its_threads(tmp_path):
    """A run in this process uses ``executor.threads_per_worker``; the next cell has what it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        annotate(tmp_path)

        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": "photos"}, "there is no setting 'inputs'; known are input, output, model"),
        ({"decode": {"strikt": True}}, "there is no setting 'decode.strikt'; known are strict"),
        ({"decode": 3}, "decode must be a mapping or DecodeConfig, got 3"),
        ({"model": "vit_g"}, "model.name must be one of tiny, vit_b, vit_l, vit_h, none, got 'vit_g'"),
        ({"config": sam_engine.AutoAnnotateConfig()}, "give a config or keywords, got both"),
    ],
)
def test_wrong_keywords_are_named(tmp_path, settings, message):
    """As the command line names them."""
    with pytest.raises(ConfigError, match=message):
        annotate(tmp_path, **settings)
    assert not (tmp_path / "out").exists()


def test_a_workers_note_is_said_once(tmp_path, caplog):
    """Memory that ran out in this process is a line for the shard, and no other."""
    fakes.write_image(tmp_path / "in/hungry.png", fakes.HUNGRY)
    sam_engine.annotate_dataset(
        input=tmp_path / "in",
        output=tmp_path / "out",
        model={"checkpoint": "random"},
        amg={"points_per_side": 4},
        executor="inline",
        make_model=fakes.make_troubled_segmenter,
    )

    assert [record.getMessage() for record in caplog.records if "memory" in record.getMessage()] == [
        "shard 0: memory ran out: amg.points_per_batch is 8 from now on"
    ]
