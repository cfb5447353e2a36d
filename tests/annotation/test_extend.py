"""A dataset whose input changes: ``on_input_change`` refuses, leaves out, or appends what is new."""

import json

import pytest

from sam_engine import annotate_dataset, open_dataset
from sam_engine.annotation.plan import Plan
from sam_engine.annotation.repair import repair_dataset
from sam_engine.dataset.verify import verify_dataset
from sam_engine.errors import FingerprintError
from sam_engine.storage.local import LocalStore
from tests.helpers import fakes


def annotate(tmp_path, **settings):
    """Two images a shard."""
    notes = []
    summary = annotate_dataset(
        input=tmp_path / "in",
        output=tmp_path / "out",
        model={"checkpoint": "random"},
        executor="inline",
        previews=0,
        make_model=fakes.make_disc_segmenter,
        on_event=lambda event: notes.extend(event.notes if isinstance(event, Plan) else ()),
        **{"shard_size": 2, "amg": {"points_per_side": 2}} | settings,
    )
    return summary, notes


@pytest.fixture
def begun(tmp_path):
    """A finished dataset of the first three of five images: a whole shard and a short one."""
    fakes.write_images(tmp_path / "in", 5)
    annotate(tmp_path, limit=3)
    return tmp_path / "out"


def rows(output):
    return [(record.image_id, record.path.decode()) for record in open_dataset(output).records()]


def record(output):
    return json.loads((output / "_meta/run.json").read_text())


def test_more_images_are_appended(tmp_path, begun):
    """Ids go on; old shards, also a short one, keep their bytes and their files; the whole verifies."""
    before = fakes.shard_bytes(begun)
    inodes = {path.name: path.stat().st_ino for path in (begun / "annotations").iterdir()}
    summary, notes = annotate(tmp_path, on_input_change="extend")
    now = {path.name: path.stat().st_ino for path in (begun / "annotations").iterdir()}

    assert rows(begun) == [(number, f"{number:03d}.png") for number in range(5)]
    assert {name: fakes.shard_bytes(begun)[name] for name in before} == before
    assert {name: now[name] for name in inodes} == inodes
    assert summary.session.num_images == 2
    assert notes == ["2 images are new since the dataset was started and are appended"]
    assert verify_dataset(open_dataset(begun)).problems == []


def test_new_rows_are_sorted_within_their_segment(tmp_path, begun):
    """A photo that sorts before all others comes behind them, with the next id."""
    fakes.write_image(tmp_path / "in/000-new.png")
    (tmp_path / "in/004.png").unlink()
    annotate(tmp_path, on_input_change="extend")

    assert rows(begun)[3:] == [(3, "000-new.png"), (4, "003.png")]


def test_segments_are_on_record(tmp_path, begun):
    """In run.json, with the fingerprint that the dataset began with; a dataset without has no such field."""
    first = record(begun)
    annotate(tmp_path, on_input_change="extend")
    second = record(begun)

    assert "segments" not in first
    assert [(s["start"], s["stop"], s["shard_size"]) for s in second["segments"]] == [(3, 5, 2)]
    assert second["fingerprint"] == first["fingerprint"]
    assert (second["num_images"], second["num_shards"]) == (5, 3)
    assert second["selection"]["limit"] is None


def test_it_grows_again_and_again(tmp_path, begun):
    """Each time from where it was; then there is nothing to do."""
    annotate(tmp_path, on_input_change="extend")
    for number in (5, 6):
        fakes.write_image(tmp_path / f"in/{number:03d}.png")
        annotate(tmp_path, on_input_change="extend")

    assert [segment["start"] for segment in record(begun)["segments"]] == [3, 5, 6]
    assert rows(begun) == [(number, f"{number:03d}.png") for number in range(7)]
    assert annotate(tmp_path, on_input_change="extend")[0].session.num_images == 0
    assert annotate(tmp_path, on_input_change="error")[1] == []
    assert verify_dataset(open_dataset(begun)).problems == []


def test_a_segment_has_shards_of_its_own_size(tmp_path):
    """Ten million images behind a trial of a hundred are not cut as finely as that."""
    fakes.write_images(tmp_path / "in", 90)
    annotate(tmp_path, shard_size=None, limit=3)
    annotate(tmp_path, shard_size=None, on_input_change="extend")

    assert record(tmp_path / "out")["settings"]["shard_size"] == 4
    assert [segment["shard_size"] for segment in record(tmp_path / "out")["segments"]] == [6]


def test_the_size_of_a_segments_shards_can_be_said(tmp_path, begun):
    """What is there is not cut anew, so that another size is no other configuration."""
    annotate(tmp_path, shard_size=1, on_input_change="extend")

    assert record(begun)["settings"]["shard_size"] == 2
    assert [segment["shard_size"] for segment in record(begun)["segments"]] == [1]
    with pytest.raises(FingerprintError, match="shard_size is 2 there and 1 here"):
        annotate(tmp_path, shard_size=1)


def test_lost_shard_of_a_segment_is_made_again(tmp_path, begun):
    """By the same command and by repair, with its bytes."""
    annotate(tmp_path, on_input_change="extend")
    before = fakes.shard_bytes(begun)
    lost = begun / "annotations/shard-000002.parquet"
    lost.unlink()
    annotate(tmp_path)
    assert fakes.shard_bytes(begun) == before
    lost.unlink()
    repair_dataset(open_dataset(begun), make_model=fakes.make_disc_segmenter)

    assert fakes.shard_bytes(begun) == before


@pytest.mark.parametrize("stop_at", ["_SUCCESS.json", "_meta/manifest.parquet", "_meta/config.yaml"])
def test_killed_while_it_is_extended_it_goes_on(tmp_path, begun, monkeypatch, stop_at):
    """Between any two writes; the same command ends with the same rows."""
    for name in ("replace", "set_aside"):
        write = getattr(LocalStore, name)

        def killed(self, target, *data, write=write):
            write(self, target, *data)
            if target == stop_at:
                raise KeyboardInterrupt

        monkeypatch.setattr(LocalStore, name, killed)
    with pytest.raises(KeyboardInterrupt):
        annotate(tmp_path, on_input_change="extend")
    assert not (begun / "_SUCCESS.json").exists()
    monkeypatch.undo()
    annotate(tmp_path, on_input_change="extend")

    assert rows(begun) == [(number, f"{number:03d}.png") for number in range(5)]
    assert verify_dataset(open_dataset(begun)).problems == []


def test_a_change_may_be_an_error(tmp_path, begun):
    """Nothing is done, and the message says what changed."""
    fakes.write_image(tmp_path / "in/000-new.png")
    with pytest.raises(FingerprintError, match="1 images are new since the dataset was started and would be"):
        annotate(tmp_path, limit=4, on_input_change="error")


def test_new_images_are_left_out_unless_asked_for(tmp_path, begun):
    """With a line that says how they are had."""
    annotate(tmp_path, on_input_change="extend")
    fakes.write_image(tmp_path / "in/000-new.png")

    [note] = annotate(tmp_path)[1]
    assert note.startswith("1 images are new since the dataset was started and are left out; ")
    assert note.endswith("on_input_change=extend annotates them")
    assert len(rows(begun)) == 5


def test_other_settings_do_not_extend(tmp_path, begun):
    """A segment is made as the dataset was."""
    with pytest.raises(FingerprintError, match=r"amg\.stability_score_offset is 1\.0 there and 0\.5 here"):
        annotate(
            tmp_path, on_input_change="extend", amg={"points_per_side": 2, "stability_score_offset": 0.5}
        )
