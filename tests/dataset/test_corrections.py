"""The log of human corrections: what is said is kept, in order, and nothing else is believed."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from sam_engine.dataset.corrections import (
    Correction,
    CorrectionLog,
    Operation,
    apply_corrections,
    read_corrections,
)
from sam_engine.errors import InputError
from sam_engine.ops.rle import encode_mask
from tests.helpers.dataset_builder import annotation, image, rectangle_mask

FIRST, SECOND, DRAWN = (rectangle_mask(24, 32, x, 3, 6, 5) for x in (2, 12, 22))
RECORD = image(3, b"a.jpg", [FIRST, SECOND])
ID_1, ID_2 = 3 * 65536, 3 * 65536 + 1
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def correction(operation, mask_id, mask=None, *, minutes=0, by="Ada") -> Correction:
    return Correction(
        operation=operation,
        image_id=3,
        mask_id=mask_id,
        size=None if mask is None else mask.shape,
        counts=None if mask is None else encode_mask(mask),
        by=by,
        time=NOON + timedelta(minutes=minutes),
    )


def outcome(*corrections):
    """Return (id, counts, accepted) of each mask that is left."""
    return [(mask.mask_id, mask.counts, mask.accepted) for mask in apply_corrections(RECORD, corrections)]


COUNTS_1, COUNTS_2, COUNTS_DRAWN = (encode_mask(mask) for mask in (FIRST, SECOND, DRAWN))


def test_what_a_log_says_is_read_back(tmp_path):
    """Every operation comes back as it was said, under the name of who said it, in order."""
    with CorrectionLog(tmp_path, by="Ada Lovelace é") as log:
        added = log.add(3, DRAWN.shape, COUNTS_DRAWN)
        log.replace(3, ID_1, DRAWN.shape, COUNTS_DRAWN)
        log.delete(3, added)
        log.accept(3, ID_2)
        log.accept(9)
    found = read_corrections(tmp_path)

    assert [(c.operation, c.mask_id, c.counts) for c in found[3]] == [
        (Operation.ADD, added, COUNTS_DRAWN),
        (Operation.REPLACE, ID_1, COUNTS_DRAWN),
        (Operation.DELETE, added, None),
        (Operation.ACCEPT, ID_2, None),
    ]
    assert [(c.operation, c.mask_id) for c in found[9]] == [(Operation.ACCEPT, None)]
    assert {c.by for c in found[3]} == {"Ada Lovelace é"}


def test_a_line_is_as_documented():
    """Keys, their order and their types are those of docs/dataset_format.md."""
    line = correction(Operation.REPLACE, ID_1, DRAWN).to_json()

    assert line == (
        b'{"version":1,"time":"2026-05-01T12:00:00.000000+00:00","by":"Ada","operation":"replace",'
        b'"image_id":3,"mask_id":196608,"segmentation":{"size":[24,32],"counts":"%b"}}\n'
        % COUNTS_DRAWN.encode()
    )


def test_each_sitting_has_a_file_of_its_own(tmp_path):
    """Two logs opened in the same second do not share a file, and neither touches the other's."""
    with CorrectionLog(tmp_path, by="Ada") as one, CorrectionLog(tmp_path, by="Ben") as other:
        one.accept(1)
        before = one.path.read_bytes()
        other.accept(1)

    assert one.path != other.path
    assert one.path.read_bytes() == before
    assert sorted(c.by for c in read_corrections(tmp_path)[1]) == ["Ada", "Ben"]


def test_a_line_is_on_the_disk_at_once(tmp_path):
    """A reader sees it while the log is still open."""
    with CorrectionLog(tmp_path, by="Ada") as log:
        log.delete(3, ID_1)

        assert len(read_corrections(tmp_path)[3]) == 1


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_left_out(tmp_path, cut, caplog):
    """A writer that died in the middle of a line loses that line alone, and the log says so."""
    with CorrectionLog(tmp_path, by="Ada") as log:
        log.delete(3, ID_1)
        log.delete(3, ID_2)
    data = log.path.read_bytes()
    log.path.write_bytes(data[:-cut])

    assert [c.mask_id for c in read_corrections(tmp_path)[3]] == [ID_1]
    assert "not finished" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version is 2; 1 is read here"),
        ({"operation": "paint"}, "paint"),
        ({"image_id": "3"}, "image_id is '3'"),
        ({"mask_id": [1]}, "mask_id"),
        ({"mask_id": None}, "replace needs a mask_id"),
        ({"time": "2026-05-01T12:00:00"}, "without an offset from UTC"),
        ({"time": "noon"}, "noon"),
        ({"by": " "}, "by is empty"),
        ({"operation": "delete"}, "delete needs no segmentation"),
        ({"operation": "add"}, "mask_id of an added mask is a text"),
        ({"segmentation": {"size": [24, 32], "counts": "000"}}, "the runs do not fit"),
        ({"segmentation": {"size": [24], "counts": "0"}}, "unpack"),
        ({"segmentation": {"size": [24, 32], "counts": 5}}, "no correction"),
    ],
)
def test_any_other_malformed_line_is_refused(tmp_path, change, message):
    """File and line are named; run lengths are checked before anybody decodes them."""
    good = correction(Operation.REPLACE, ID_1, DRAWN).to_json()
    bad = json.dumps(json.loads(good) | change).encode()
    (tmp_path / "corrections").mkdir()
    (tmp_path / "corrections/a.jsonl").write_bytes(good + bad + b"\n")

    with pytest.raises(InputError, match=rf"a\.jsonl, line 2: .*{message}"):
        read_corrections(tmp_path)


def test_a_line_that_is_no_json_is_refused(tmp_path):
    """Also if it is no object, or no text."""
    (tmp_path / "corrections").mkdir()
    for line in (b"{", b"[]", b"\xff", b""):
        (tmp_path / "corrections/a.jsonl").write_bytes(line + b"\n")
        with pytest.raises(InputError, match=r"a\.jsonl, line 1"):
            read_corrections(tmp_path)


def test_files_are_merged_by_time(tmp_path):
    """The order is that of the times, whatever file and zone a line is in."""
    (tmp_path / "corrections").mkdir()
    lines = [correction(Operation.ACCEPT, ID_1, minutes=m).to_json() for m in (0, 10, 20, 30)]
    lines[1] = lines[1].replace(b"12:10:00.000000+00:00", b"14:10:00.000000+02:00")
    (tmp_path / "corrections/b.jsonl").write_bytes(lines[0] + lines[2])
    (tmp_path / "corrections/a.jsonl").write_bytes(lines[1] + lines[3])

    minutes = [round((c.time - NOON).total_seconds() / 60) for c in read_corrections(tmp_path)[3]]
    assert minutes == [0, 10, 20, 30]


def test_a_dataset_without_a_log_has_no_corrections(tmp_path):
    """There is nothing to read and nothing is made."""
    assert read_corrections(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_without_corrections_the_masks_are_the_datasets():
    """Nobody has accepted them."""
    assert outcome() == [(ID_1, COUNTS_1, False), (ID_2, COUNTS_2, False)]


def test_each_operation_does_what_it_says():
    """Deleted, replaced, accepted and added masks, the dataset's first."""
    assert outcome(correction(Operation.DELETE, ID_1)) == [(ID_2, COUNTS_2, False)]
    assert outcome(correction(Operation.REPLACE, ID_1, DRAWN))[0] == (ID_1, COUNTS_DRAWN, True)
    assert outcome(correction(Operation.ACCEPT, ID_2))[1] == (ID_2, COUNTS_2, True)
    assert outcome(correction(Operation.ADD, "new", DRAWN))[2:] == [("new", COUNTS_DRAWN, True)]


def test_accepting_the_image_accepts_what_is_there():
    """Deleted masks stay deleted."""
    steps = (correction(Operation.DELETE, ID_1), correction(Operation.ACCEPT, None))

    assert outcome(*steps) == [(ID_2, COUNTS_2, True)]


def test_the_last_word_counts():
    """A deleted mask comes back when it is accepted or replaced later, as it last was."""
    replaced, deleted = correction(Operation.REPLACE, ID_1, DRAWN), correction(Operation.DELETE, ID_1)

    assert outcome(replaced, deleted) == [(ID_2, COUNTS_2, False)]
    assert outcome(deleted, replaced)[0] == (ID_1, COUNTS_DRAWN, True)
    assert outcome(replaced, deleted, correction(Operation.ACCEPT, ID_1))[0] == (ID_1, COUNTS_DRAWN, True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (correction(Operation.DELETE, ID_2 + 1), "is of a mask that is not there: 196610 of image 3"),
        (correction(Operation.ACCEPT, "new"), "is of a mask that is not there: 'new' of image 3"),
        (correction(Operation.REPLACE, ID_1, np.ones((32, 24), bool)), "24 x 32 pixels on image 3"),
    ],
)
def test_what_does_not_fit_the_image_is_refused(wrong, message):
    """The message says who said it, and when."""
    with pytest.raises(InputError, match=message) as caught:
        outcome(wrong)
    assert "2026-05-01T12:00:00+00:00 by 'Ada'" in str(caught.value)


def test_a_mask_is_added_once():
    """Two masks of one id would be one mask to every later correction."""
    added = correction(Operation.ADD, "new", DRAWN)

    with pytest.raises(InputError, match="adds a mask that is there already: 'new'"):
        outcome(added, replace(added, time=NOON + timedelta(minutes=1)))


def test_an_image_without_masks_can_be_given_some():
    """Missing masks are the other half of what people see."""
    empty = image(3, b"a.jpg")

    [mask] = apply_corrections(empty, [correction(Operation.ADD, "new", DRAWN)])

    assert mask.counts == annotation(DRAWN).counts
