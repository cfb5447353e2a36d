"""Datasets made of datasets: every result is sound, and its rows lead back to their parents."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sam_engine.dataset.correction_log import CorrectionLog, read_corrections
from sam_engine.dataset.corrections import Operation, apply_corrections
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.rewrite import write
from sam_engine.dataset.rewrite.operations import (
    apply_corrections_of,
    dedupe_dataset,
    filter_dataset,
    merge_datasets,
    sample_dataset,
    split_dataset,
)
from sam_engine.dataset.rewrite.parents import open_parent
from sam_engine.dataset.rewrite.rules import Rules
from sam_engine.dataset.schema import SUCCESS, annotation_id
from sam_engine.dataset.verify import verify_dataset
from sam_engine.errors import ConfigError, FingerprintError, InputError
from sam_engine.ops.rle import encode_mask
from sam_engine.structures import ImageStatus
from tests.helpers.dataset_builder import failed, image, rectangle_mask, sample_records, write_dataset

SMALL, LARGE = rectangle_mask(24, 32, 30, 20, 2, 4), rectangle_mask(24, 32, 2, 3, 10, 6)


@pytest.fixture
def parent(tmp_path):
    """Five images in three shards: two masks, a failure, none, a name that is not UTF-8, one in a crop."""
    write_dataset(tmp_path / "parent", sample_records(), settings={"model.name": "tiny"})
    return tmp_path / "parent"


def records(path):
    """The rows of a dataset that is sound."""
    dataset = open_dataset(path)
    assert verify_dataset(dataset).problems == []
    return list(dataset.records())


def files(path):
    """Every file's bytes but the lock, by name."""
    found = {file.relative_to(path): file for file in sorted(path.rglob("*")) if file.is_file()}
    return {name: file.read_bytes() for name, file in found.items() if name != Path("_meta/lock")}


def many(path, names, *, start=0, **settings):
    """Write a dataset of images without masks, one for each name; each has other bytes."""
    found = [image(start + number, name.encode()) for number, name in enumerate(sorted(names))]
    rows = [replace(record, image_id=number) for number, record in enumerate(found)]
    write_dataset(path, rows, **settings)
    return path


def test_filtered_rows_lead_back(parent, tmp_path):
    """Masks below the area are gone; what stays has new ids, and the old ones as its parent's."""
    fingerprint = open_dataset(parent).fingerprint

    filter_dataset(open_parent(parent), tmp_path / "out", Rules(min_area=10, statuses=["ok"]))
    rows = records(tmp_path / "out")

    found = [(row.image_id, row.path, row.parent_dataset, row.parent_image_id) for row in rows]
    assert found == [(0, b"a.jpg", fingerprint, 0), (1, "über/ein Bild.jpg".encode(), fingerprint, 4)]
    assert [mask.parent_id for row in rows for mask in row.annotations] == [0, annotation_id(4, 0)]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (Rules(), [0, 1, 2, 3, 4]),
        (Rules(max_area=8, min_masks=1), [0, 3]),
        (Rules(min_share=60 / 768, min_masks=1), [0]),
        (Rules(max_share=0.05, max_masks=0), [1, 2]),
        (Rules(min_predicted_iou=0.951, min_masks=1), []),
        (Rules(min_stability_score=0.96875, min_masks=2), [0]),
        (Rules(labels=["cat"], min_masks=1), []),
        (Rules(statuses=["corrupt", "ok_empty"]), [1, 2]),
        (Rules(names=["*.png", "über/*"]), [1, 4]),
    ],
)
def test_rules_choose_images(parent, tmp_path, rules, kept):
    """Every rule alone; ends belong to their ranges. Where nothing is left, nothing is written."""
    out = tmp_path / "out"
    if not kept:
        with pytest.raises(InputError, match="no image is left"):
            filter_dataset(open_parent(parent), out, rules)
        assert not out.exists()
        return
    filter_dataset(open_parent(parent), out, rules)

    assert [row.parent_image_id for row in records(out)] == kept


def test_an_image_that_loses_its_masks_is_empty(parent, tmp_path):
    """It stays, as one in which nothing was found."""
    filter_dataset(open_parent(parent), tmp_path / "out", Rules(min_area=700))

    assert records(tmp_path / "out")[0].status is ImageStatus.OK_EMPTY


def test_what_is_known_of_the_masks_is_kept(parent, tmp_path):
    """Settings of the model are the child's, too; the others are those of its parent."""
    filter_dataset(open_parent(parent), tmp_path / "out", Rules(min_area=10))
    settings = open_dataset(tmp_path / "out").run_info["settings"]

    assert settings["model.name"] == "tiny"
    assert settings["operation"] == {"name": "filter", "rules": {"min_area": 10}}
    assert settings["parents"][0]["settings"]["shard_size"] == 2


def test_a_killed_run_goes_on_to_the_same_bytes(parent, tmp_path, monkeypatch):
    """It never looks finished, and the same call makes what a run that was not killed made."""
    filter_dataset(open_parent(parent), tmp_path / "whole", Rules(names=["*"]))
    real, made = write.publish_shard, []

    def publish(*arguments, **keywords):
        if made:
            raise KeyboardInterrupt
        made.append(1)
        return real(*arguments, **keywords)

    monkeypatch.setattr(write, "publish_shard", publish)
    with pytest.raises(KeyboardInterrupt):
        filter_dataset(open_parent(parent), tmp_path / "out", Rules(names=["*"]))
    again = []
    monkeypatch.setattr(
        write, "publish_shard", lambda *rest, **named: again.append(named["shard"]) or real(*rest, **named)
    )
    half = open_dataset(tmp_path / "out")

    assert not (tmp_path / "out" / SUCCESS).exists()
    assert half.num_images < half.num_planned
    filter_dataset(open_parent(parent), tmp_path / "out", Rules(names=["*"]))
    whole, resumed = files(tmp_path / "whole"), files(tmp_path / "out")
    whole.pop(Path("README.md")), resumed.pop(Path("README.md"))  # they name themselves
    assert resumed == whole
    assert [shard.index for shard in again] == [1]


def test_a_finished_output_is_left_as_it_is(parent, tmp_path):
    """Also a card that somebody has edited."""
    for _ in range(2):
        filter_dataset(open_parent(parent), tmp_path / "out", Rules(min_area=10))
        (tmp_path / "out/README.md").write_text("by hand")

    filter_dataset(open_parent(parent), tmp_path / "out", Rules(min_area=10))
    assert (tmp_path / "out/README.md").read_text() == "by hand"


def test_another_filter_does_not_touch_an_output(parent, tmp_path):
    """Its bytes are what they were."""
    filter_dataset(open_parent(parent), tmp_path / "out", Rules(min_area=10))
    before = files(tmp_path / "out")

    with pytest.raises(FingerprintError, match="operation"):
        filter_dataset(open_parent(parent), tmp_path / "out", Rules(min_area=11))
    assert files(tmp_path / "out") == before


def test_a_half_made_parent_is_refused(parent):
    """What it will hold is not known yet."""
    (parent / SUCCESS).unlink()

    with pytest.raises(InputError, match="half made"):
        open_parent(parent)


def test_an_output_in_its_parent_is_refused(parent):
    """The tree of a dataset is its own."""
    with pytest.raises(ConfigError, match="lies in"):
        filter_dataset(open_parent(parent), parent / "annotations" / "x", Rules())


def test_corrections_are_applied_before_the_rules(parent, tmp_path):
    """A replaced mask is judged as it is now; a deleted one is gone, and an added one has no parent."""
    log = CorrectionLog(parent, "Ada")
    log.delete(0, 0)
    log.replace(3, annotation_id(3, 0), (24, 32), encode_mask(LARGE))
    log.add(2, (24, 32), encode_mask(LARGE))

    made = filter_dataset(open_parent(parent), tmp_path / "out", Rules(min_area=10, min_masks=1))
    masks = {row.parent_image_id: [m.parent_id for m in row.annotations] for row in records(tmp_path / "out")}

    assert masks == {2: [None], 3: [annotation_id(3, 0)], 4: [annotation_id(4, 0)]}
    assert made.num_corrected == 2


def test_acceptances_are_carried_over(parent, tmp_path):
    """What a person drew or accepted is accepted in the child, by whom and when, an image as a whole too."""
    log = CorrectionLog(parent, "Ada")
    log.accept(0)
    log.add(3, (24, 32), encode_mask(LARGE))

    apply_corrections_of(open_parent(parent), tmp_path / "out")
    said = read_corrections(tmp_path / "out")
    accepted = {
        row.image_id: [m.accepted for m in apply_corrections(row, said.get(row.image_id, ()))]
        for row in records(tmp_path / "out")
    }

    assert accepted == {0: [True, True], 1: [], 2: [], 3: [False, True], 4: [False]}
    assert [line.mask_id for line in said[0]] == [0, 1, None]
    assert {(line.by, line.operation) for lines in said.values() for line in lines} == {
        ("Ada", Operation.ACCEPT)
    }
    assert said[0][-1].time == read_corrections(parent)[0][0].time


def test_a_filter_that_drops_masks_does_not_say_that_none_is_missing(parent, tmp_path):
    """The masks that stay are accepted; the image as a whole is not."""
    log = CorrectionLog(parent, "Ada")
    log.accept(0)

    filter_dataset(open_parent(parent), tmp_path / "out", Rules(max_area=8))

    assert [line.mask_id for line in read_corrections(tmp_path / "out")[0]] == [0]


def test_a_split_has_every_image_once(tmp_path):
    """Copies are on one side, and more images move none of those that were there."""
    names = [f"{number:03}.jpg" for number in range(60)]
    rows = [image(number, name.encode()) for number, name in enumerate(names)]
    rows[7] = replace(rows[7], sha256=rows[3].sha256)
    write_dataset(tmp_path / "few", rows[:40])
    write_dataset(tmp_path / "all", rows, shard_size=25)
    fractions = {"train": 0.7, "val": 0.3}

    few = split_dataset(open_parent(tmp_path / "few"), tmp_path / "a", fractions, seed=1)
    split_dataset(open_parent(tmp_path / "all"), tmp_path / "b", fractions, seed=1)
    sides = {part: {row.path for row in records(tmp_path / part)} for part in ("a/train", "a/val", "b/train")}

    assert sides["a/train"] | sides["a/val"] == {name.encode() for name in names[:40]}
    assert few["train"].num_images + few["val"].num_images == 40
    assert {b"003.jpg", b"007.jpg"} <= sides["a/train"] or {b"003.jpg", b"007.jpg"} <= sides["a/val"]
    assert sides["a/train"] == sides["b/train"] & {name.encode() for name in names[:40]}


def test_what_was_split_is_merged_again(parent, tmp_path):
    """Rows are those of the whole, but for the way back: one input, and no path twice."""
    split_dataset(open_parent(parent), tmp_path / "s", {"x": 0.5, "y": 0.5}, seed=2)

    merge_datasets([open_parent(tmp_path / "s/y"), open_parent(tmp_path / "s/x")], tmp_path / "out")
    rows = [
        replace(
            row,
            parent_dataset=None,
            parent_image_id=None,
            annotations=tuple(replace(mask, parent_id=None) for mask in row.annotations),
        )
        for row in records(tmp_path / "out")
    ]

    assert rows == list(open_dataset(parent).records())


def test_merged_inputs_are_told_apart_by_folders(tmp_path):
    """The same name in two inputs stays two images, in order of their paths; run.json has both inputs."""
    a = many(tmp_path / "a", ["1.jpg", "2.jpg"], input_root="/one")
    b = many(tmp_path / "a-b", ["1.jpg"], start=5, input_root="/two")

    merge_datasets([open_parent(a), open_parent(b)], tmp_path / "out")
    inputs = json.loads((tmp_path / "out/_meta/run.json").read_bytes())["selection"]["inputs"]

    assert [row.path for row in records(tmp_path / "out")] == [b"a-b/1.jpg", b"a/1.jpg", b"a/2.jpg"]
    assert {name: spec["input"] for name, spec in inputs.items()} == {"a": "/one", "a-b": "/two"}


def test_one_input_annotated_twice_stays_apart(tmp_path):
    """Two models on the same images: each row has its own, and settings that differ are those of parents."""
    for name in ("tiny", "vit_b"):
        write_dataset(tmp_path / name, sample_records(), settings={"model.name": name, "amg.crops": 0})

    merge_datasets([open_parent(tmp_path / name) for name in ("vit_b", "tiny")], tmp_path / "out")
    settings = open_dataset(tmp_path / "out").run_info["settings"]

    assert [row.path.partition(b"/")[0] for row in records(tmp_path / "out")] == 5 * [b"tiny"] + 5 * [
        b"vit_b"
    ]
    assert "model.name" not in settings
    assert settings["amg.crops"] == 0
    assert [entry["settings"]["model.name"] for entry in settings["parents"]] == ["vit_b", "tiny"]


def test_a_dataset_is_merged_once(parent, tmp_path):
    """Its rows would be there twice."""
    with pytest.raises(ConfigError, match="same dataset"):
        merge_datasets([open_parent(parent), open_parent(parent)], tmp_path / "out")


def test_a_larger_sample_has_the_smaller(tmp_path):
    """And another seed draws others."""
    parent = open_parent(many(tmp_path / "p", [f"{number}.jpg" for number in range(30)]))

    for name, count, seed in (("five", 5, 0), ("ten", 10, 0), ("other", 10, 1)):
        sample_dataset(parent, tmp_path / name, count=count, seed=seed)
    drawn = {name: {row.path for row in records(tmp_path / name)} for name in ("five", "ten", "other")}

    assert [len(paths) for paths in drawn.values()] == [5, 10, 10]
    assert drawn["five"] < drawn["ten"] != drawn["other"]


def test_of_copies_the_annotated_stays(tmp_path):
    """By the bytes of files; what was never read is nobody's copy."""
    good = image(2, b"c.jpg", [SMALL])
    bad = replace(failed(0, b"a.jpg", ImageStatus.TIMEOUT), sha256=good.sha256)
    rows = [bad, failed(1, b"b.jpg"), good, replace(good, image_id=3, path=b"d.jpg"), failed(4, b"e.jpg")]
    write_dataset(tmp_path / "p", rows)

    dedupe_dataset(open_parent(tmp_path / "p"), tmp_path / "out")

    assert [row.path for row in records(tmp_path / "out")] == [b"b.jpg", b"c.jpg", b"e.jpg"]


def test_labels_that_people_gave_are_a_column_of_the_child(parent, tmp_path):
    """Also where no mask of the parent has one; what was undone leaves nothing."""
    log = CorrectionLog(parent, "Ada")
    log.write([log.line(Operation.LABEL, 0, 0, label="cup"), log.line(Operation.DELETE, 0, 1, act="d")])
    log.write([log.line(Operation.UNDO, 0, act="d")])

    apply_corrections_of(open_parent(parent), tmp_path / "out")

    assert [mask.label for mask in records(tmp_path / "out")[0].annotations] == ["cup", None]
    assert read_corrections(tmp_path / "out") == {}
