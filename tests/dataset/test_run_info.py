"""The fingerprint: what decides a dataset's bytes is in it, nothing else is."""

import json

import pytest

from sam_engine.config import AutoAnnotateConfig
from sam_engine.dataset.run_info import (
    ADDED_LATER,
    RunInfo,
    deciding_settings,
    library_versions,
    refuse_difference,
    selection_settings,
    version_notes,
)
from sam_engine.errors import FingerprintError, ShardError
from tests.helpers import fakes


def fingerprint(**changes):
    given = {
        "architecture": {"depth": (1, 2)},
        "checkpoint_sha256": "c",
        "manifest_sha256": "m",
        "shard_size": 5,
        "prompts_sha256": None,
    }
    given |= {key: changes.pop(key) for key in list(changes) if key in given}
    return info(deciding_settings(fakes.run_settings(**changes), **given)).fingerprint


def info(settings):
    return RunInfo(
        settings=settings,
        selection={"input": "/in"},
        random_weights=False,
        num_images=3,
        num_shards=1,
        versions=library_versions(),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": {"depth": (1, 3)}},
        {"checkpoint_sha256": "d"},
        {"manifest_sha256": "n"},
        {"model__name": "vit_b"},
        {"model__precision": "bf16"},
        {"amg__crop_n_layers": 1},
        {"amg__points_per_row": 4, "amg__points_per_column": 2},
        {"decode__strict": False},
        {"decode__max_pixels": 10},
        {"decode__scale": "min-max"},
        {"decode__bands": [3, 2, 1]},
        {"executor__threads_per_worker": 2},
        {"shard_size": 7},
        {"prompts_sha256": "p"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_the_bytes_is_in_it(change):
    """Each changes rows, or how they lie in files."""
    assert fingerprint(**change) != fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"output": "elsewhere"},
        {"previews": 4},
        {"max_failed_fraction": 0.5},
        {"model__device": "cpu"},
        {"amg__points_per_batch": 8},
        {"executor__name": "ray"},
        {"executor__num_workers": 9},
        {"executor__decode_threads": 9},
        {"executor__address": "auto"},
        {"decode__isolate": True},
        {"log__format": "json"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_nothing_is_not(change):
    """A run may be resumed elsewhere and otherwise."""
    assert fingerprint(**change) == fingerprint()


def test_settings_added_later_are_not_in_it_unless_used():
    """A dataset that was begun before they were there is resumed."""
    settings = deciding_settings(
        fakes.run_settings(), architecture={}, checkpoint_sha256=None, manifest_sha256="m", shard_size=5
    )

    assert [key for key in settings if key.rpartition(".")[2] in ADDED_LATER] == []


def test_file_reads_back():
    """run.json holds the same run."""
    run_info = info({"a": [1, 2], "b": None})

    assert RunInfo.from_json(run_info.to_json()) == run_info


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-9], lambda _: b"[]", lambda d: d.replace(b'"a": 1', b'"a": 2')]
)
def test_damaged_file_is_refused(damage):
    """Also one that somebody edited by hand."""
    with pytest.raises(ShardError, match=r"_meta/run\.json is damaged"):
        RunInfo.from_json(damage(info({"a": 1}).to_json()))


def test_difference_is_named_with_both_values():
    """A key that only one side has is a difference too."""
    with pytest.raises(FingerprintError) as caught:
        refuse_difference("/out", {"same": 1, "a": 1, "old": True}, {"same": 1, "a": 2, "new": "x"})

    assert str(caught.value) == (
        "output /out holds the dataset of another configuration: a is 1 there and 2 here; old is true there "
        'and null here; new is null there and "x" here. Give another output=, or its settings'
    )


def test_versions_are_plain(capsys):
    """Those of what is installed; JSON holds them."""
    assert json.loads(json.dumps(library_versions()))["numpy"]


def test_other_versions_are_said_aloud():
    """Whatever was updated, added or removed since the dataset was started is named, in one line."""
    there, here = {"torch": "2.12", "numpy": "2.4", "ray": "2.60"}, {"torch": "2.13", "numpy": "2.4"}

    [note] = version_notes(there, here)

    assert note.endswith("torch 2.12 -> 2.13, ray 2.60 -> absent")
    assert version_notes(here, here) == []


def test_the_column_of_an_input_is_remembered_where_it_was_named():
    """Exports find the images again; datasets made before differ in nothing."""
    named = selection_settings(AutoAnnotateConfig(input_column="photo"), "/x.parquet")

    assert named["input_column"] == "photo"
    assert "input_column" not in selection_settings(AutoAnnotateConfig(), "/x.parquet")
