"""What the annotator writes down: acts whole, once, in order, and none that rests on what others changed."""

import dataclasses
import os
from datetime import UTC, datetime, timedelta

import pytest

from sam_engine.dataset.correction_log import CorrectionLog, read_corrections
from sam_engine.dataset.corrections import Operation, Stage, apply_corrections
from sam_engine.dataset.places import Places
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import InputError, StorageError
from sam_engine.ops.rle import encode_mask
from sam_engine.web.acts import ConflictError, parse_act
from sam_engine.web.annotating import Annotating
from sam_engine.web.queue import Queue
from tests.helpers.dataset_builder import failed, image, rectangle_mask, write_dataset

FIRST, SECOND, DRAWN = (rectangle_mask(24, 32, x, 3, 6, 5) for x in (2, 12, 22))
RECORDS = [
    image(0, b"a.jpg", [FIRST, SECOND]),
    failed(1, b"b.jpg"),
    image(2, b"c.jpg", [FIRST]),
    image(3, b"d.jpg"),
]


@pytest.fixture
def root(tmp_path):
    write_dataset(tmp_path / "data", RECORDS)
    return tmp_path / "data"


def annotating(root):
    dataset = open_dataset(root)
    return Annotating(dataset, Places(dataset))


def act(number, *lines, by="Ada", seen=0, image_id=0, **more):
    """Return an act as a page would send it; its id is made of a number."""
    document = {"by": by, "seen": seen, "act": f"{number:016x}", "lines": list(lines), **more}
    return parse_act(document, image_id)


def add(number, mask=DRAWN, **more):
    segmentation = {"size": list(mask.shape), "counts": encode_mask(mask)}
    return {"operation": "add", "mask_id": f"{number:016x}", "segmentation": segmentation, **more}


def delete(mask_id):
    return {"operation": "delete", "mask_id": mask_id}


UNDO, REDO, DONE = ({"operation": name} for name in ("undo", "redo", "accept"))


def ids(state):
    return [mask["id"] for mask in state["masks"]]


def test_an_act_is_in_the_log_when_it_is_answered(root):
    """With all that the page said of it, and a time later than all before."""
    prompts = [{"kind": "point", "coords": [3, 4], "foreground": True}]
    answer = annotating(root).say(
        act(7, delete(0), add(1, label="cup", prompts=prompts), kind="merge", stage="semi", time_s=2.5)
    )
    first, second = read_corrections(root)[0]

    assert answer == {"revision": 2, "exhaustive": False, "undo": f"{7:016x}", "redo": None}
    assert (first.operation, first.mask_id, first.time_s) == (Operation.DELETE, 0, 2.5)
    assert (second.label, second.prompts[0].coords, second.time_s) == ("cup", (3.0, 4.0), None)
    assert {(line.act, line.kind, line.stage) for line in (first, second)} == {
        (f"{7:016x}", "merge", Stage.SEMI)
    }
    assert first.time < second.time


def test_an_image_is_told_as_people_left_it(root):
    """Masks with their ids, labels and whether they are accepted; not those that are gone."""
    web = annotating(root)
    web.say(act(1, delete(0), add(1)))
    web.say(act(2, {"operation": "label", "mask_id": 1, "label": "pot"}, seen=2))
    state = web.image(0, "Ada")

    assert [(m["id"], m["accepted"], m["label"]) for m in state["masks"]] == [
        (1, False, "pot"),
        (f"{1:016x}", True, None),
    ]
    assert state["revision"] == 3


def test_undo_and_redo_go_by_person_and_survive_a_restart(root):
    """Each undoes their own acts, the last first, in whatever program; a new act forgets what was undone."""
    web = annotating(root)
    web.say(act(1, delete(0)))
    web.say(act(2, delete(1), by="Ben", seen=1))
    state = web.say(act(3, add(1), seen=2))
    web.say(act(3, UNDO, seen=3))
    again = annotating(root)
    before = again.image(0, "Ada")
    again.say(act(3, REDO, seen=4))
    again.say(act(3, UNDO, seen=5))
    after = again.say(act(1, UNDO, seen=6))

    assert state["undo"] == f"{3:016x}"
    assert (before["undo"], before["redo"], ids(before)) == (f"{1:016x}", f"{3:016x}", [])
    assert (after["undo"], after["redo"]) == (None, f"{1:016x}")
    assert ids(again.image(0, "Ada")) == [0]
    assert again.say(act(9, add(9), seen=7))["redo"] is None


def test_nobody_undoes_what_another_did(root):
    """Whose act it is decides."""
    web = annotating(root)
    web.say(act(1, delete(0)))

    with pytest.raises(InputError, match="done by Ada, who alone"):
        web.say(act(1, UNDO, by="Ben", seen=1))


def test_an_act_that_is_said_again_is_there_once(root):
    """Its answer was lost: by the same program, or by the next; the same holds for undoing."""
    web = annotating(root)
    web.say(act(1, add(1)))
    web.say(act(1, add(1)))
    annotating(root).say(act(1, add(1)))
    web.say(act(1, UNDO, seen=1))
    answer = web.say(act(1, UNDO, seen=1))

    assert len(read_corrections(root)[0]) == 2
    assert answer["redo"] == f"{1:016x}"


@pytest.mark.parametrize(
    ("others", "mine", "conflicts"),
    [
        (delete(0), delete(0), True),
        (delete(0), {"operation": "accept", "mask_id": 0}, True),
        (delete(0), delete(1), False),
        (delete(0), add(2), False),
        (add(1), DONE, True),
        (DONE, delete(0), True),
    ],
)
def test_two_tabs_do_not_talk_past_each_other(root, others, mine, conflicts):
    """What rests on masks that another has changed meanwhile is refused; what does not, is written."""
    tabs = [annotating(root), annotating(root)]  # two programs, which is harder than two tabs of one
    tabs[0].say(act(1, others, by="Ben"))
    if conflicts:
        with pytest.raises(ConflictError, match="Ben changed this image"):
            tabs[1].say(act(2, mine))
    else:
        tabs[1].say(act(2, mine))
    num_written = len(read_corrections(root)[0])
    if conflicts:
        tabs[1].say(act(2, mine, seen=1))  # after it was shown anew

    assert num_written == (1 if conflicts else 2)
    assert len(read_corrections(root)[0]) == 2


def test_a_clock_that_runs_behind_reorders_nothing(root):
    """A line about a mask of another program is later than the one that added it, whatever its clock says."""
    ahead = CorrectionLog(root, "Ben", after=datetime.now(UTC) + timedelta(hours=1))
    added = ahead.add(0, DRAWN.shape, encode_mask(DRAWN))
    web = annotating(root)
    web.say(act(1, delete(added), seen=1))

    assert len(apply_corrections(RECORDS[0], read_corrections(root)[0])) == 2


def test_what_may_have_been_written_is_not_lost_when_it_is_said_again(root, monkeypatch):
    """A folder that cannot be synced: no answer; said again it is there once, synced before the answer."""
    web = annotating(root)
    web.say(act(1, delete(0)))
    syncs, sync = [], os.fsync
    with monkeypatch.context() as broken:
        broken.setattr("sam_engine.storage.local._fsync_directory", refuse)
        with pytest.raises(StorageError):
            web.say(act(2, add(2), seen=1))
        with pytest.raises(StorageError):
            web.say(act(2, add(2), seen=1))
    monkeypatch.setattr(os, "fsync", lambda descriptor: (syncs.append(descriptor), sync(descriptor)))
    web.say(act(2, add(2), seen=1))
    web.say(act(3, delete(1), seen=2))

    assert syncs
    assert [line.act for line in read_corrections(root)[0]] == [f"{n:016x}" for n in (1, 2, 3)]


def test_others_see_what_was_in_doubt_and_all_that_follows(root, monkeypatch):
    """A file whose last lines may be lost is not written anew without them: readers go by their number."""
    web, other = annotating(root), annotating(root)
    web.say(act(1, delete(0)))
    with monkeypatch.context() as broken:
        broken.setattr("sam_engine.storage.local._fsync_directory", refuse)
        with pytest.raises(StorageError):
            web.say(act(2, add(2), seen=1))
    before = other.image(0, "Ben")["revision"]
    web.say(act(3, delete(1), seen=2))

    assert before == 2
    assert ids(other.image(0, "Ben")) == [f"{2:016x}"]


def test_what_a_killed_program_left_is_made_to_last_before_it_is_taken_for_said(root, monkeypatch):
    """Whoever opens the dataset next syncs its folders, and is refused where that fails."""
    annotating(root).say(act(1, delete(0)))
    monkeypatch.setattr("sam_engine.storage.local._fsync_directory", refuse)

    with pytest.raises(StorageError):
        annotating(root)


def refuse(_):
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by": ""}, "annotator's name"),
        ({"by": "a\nb"}, "annotator's name"),
        ({"seen": -1}, "seen is -1"),
        ({"seen": True}, "seen is True"),
        ({"act": "x"}, "act is 'x'"),
        ({"act": "../../../etc/pas"}, "16 hexadecimal digits"),
        ({"lines": []}, "at least one"),
        ({"lines": [DONE] * 2 + [UNDO]}, "acts of their own"),
        ({"lines": [{"operation": "paint"}]}, "paint"),
        ({"lines": [delete([1])]}, "mask_id is"),
        ({"lines": [delete(True)]}, "mask_id is True"),
        ({"lines": [add(1) | {"mask_id": "new"}]}, "16 hexadecimal digits"),
        ({"lines": [add(1) | {"segmentation": {"size": [24, 32], "counts": "000"}}]}, "do not fit"),
        ({"lines": [add(1) | {"segmentation": {"size": [2**40, 2**40], "counts": "0"}}]}, "no act"),
        ({"lines": [add(1) | {"segmentation": 5}]}, "no act"),
        ({"lines": [add(1, label=5)]}, "no act"),
        ({"lines": [add(1, prompts=[{"kind": "point", "coords": [1, "x"], "foreground": 1}])]}, "x"),
        ({"stage": "late"}, "late"),
        ({"time_s": float("nan")}, "time_s"),
        ({"time_s": "1e999"}, "time_s"),
        ({"kind": "x" * 300}, "kind is"),
    ],
)
def test_what_is_no_act_is_refused(change, message):
    """Before anything is looked up or written."""
    document = {"by": "Ada", "seen": 0, "act": "0" * 16, "lines": [add(1)], **change}

    with pytest.raises(ValueError, match=message):
        parse_act(document, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (act(1, delete(5)), "of a mask that is not there"),
        (act(1, UNDO), "of an act that is not there"),
        (act(1, add(1, DRAWN.T)), "32 pixels on image 0|24 x 32"),
        (act(1, add(1), image_id=1), "was not annotated"),
        (act(1, add(1), image_id=99), "not in the dataset"),
    ],
)
def test_what_does_not_fit_the_image_is_not_written(root, wrong, message):
    """The log stays as it was, and can be read."""
    with pytest.raises(InputError, match=message):
        annotating(root).say(wrong)
    assert read_corrections(root) == {}


def test_the_queue_goes_by_the_lowest_score_and_passes_over_what_is_done(tmp_path):
    """Unstable images first; not those that are exhaustive, failed, or open elsewhere; round at the end."""
    records = [image(n, b"%d.jpg" % n, [FIRST, SECOND]) for n in range(3)]
    for n, score in enumerate((0.9, 0.5, 0.7)):
        masks = (
            records[n].annotations[0],
            dataclasses.replace(records[n].annotations[1], stability_score=score),
        )
        records[n] = dataclasses.replace(records[n], annotations=masks)
    write_dataset(tmp_path, [*records, failed(3, b"3.jpg")])
    web = annotating(tmp_path)
    order = [web.next("Ada", order="stability", after=after)["image_id"] for after in (None, 1, 2, 0)]
    web.image(1, "Ben")
    elsewhere = web.next("Ada", order="stability")["image_id"]
    web.say(act(1, DONE, image_id=2))

    assert order == [1, 2, 0, 1]
    assert elsewhere == 2
    assert web.next("Ada", order="stability") == {"image_id": 0, "num_left": 2}
    assert web.next("Ben", order="name", after=0)["image_id"] == 1


def test_every_order_has_every_image_once(root):
    """A random order is the same for the same seed."""
    dataset = open_dataset(root)
    queue = Queue(dataset, Places(dataset))
    for order in ("stability", "predicted_iou", "masks", "random", "name"):
        seen, after = [], None
        while after is None or len(seen) < len(queue):
            after = queue.next(order, seed=3, after=after)["image_id"]
            seen.append(after)
        assert sorted(seen) == [0, 2, 3]
