"""Corrections: what people say of masks, and what is left of an image's masks by it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from sam_engine.dataset.corrections import (
    Correction,
    Operation,
    apply_corrections,
    corrected_annotations,
    in_force,
    is_exhaustive,
)
from sam_engine.errors import InputError
from sam_engine.ops.rle import encode_mask
from tests.helpers.dataset_builder import annotation, image, rectangle_mask

FIRST, SECOND, DRAWN = (rectangle_mask(24, 32, x, 3, 6, 5) for x in (2, 12, 22))
RECORD = image(3, b"a.jpg", [FIRST, SECOND])
ID_1, ID_2 = 3 * 65536, 3 * 65536 + 1
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def correction(operation, mask_id, mask=None, *, minutes=0, by="Ada", **said) -> Correction:
    return Correction(
        operation=operation,
        image_id=3,
        mask_id=mask_id,
        size=None if mask is None else mask.shape,
        counts=None if mask is None else encode_mask(mask),
        by=by,
        time=NOON + timedelta(minutes=minutes),
        **said,
    )


def outcome(*corrections):
    """Return (id, counts, accepted) of each mask that is left."""
    return [(mask.mask_id, mask.counts, mask.accepted) for mask in apply_corrections(RECORD, corrections)]


COUNTS_1, COUNTS_2, COUNTS_DRAWN = (encode_mask(mask) for mask in (FIRST, SECOND, DRAWN))


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


def test_an_undone_act_does_not_count():
    """All its lines, and again after a redo; the masks are as they were, accepted or not."""
    merged = [
        correction(Operation.DELETE, ID_1, act="m"),
        correction(Operation.DELETE, ID_2, act="m"),
        correction(Operation.ADD, "both", DRAWN, act="m"),
    ]
    undo, redo = (correction(operation, None, act="m") for operation in (Operation.UNDO, Operation.REDO))

    assert outcome(*merged) == [("both", COUNTS_DRAWN, True)]
    assert outcome(*merged, undo) == outcome()
    assert outcome(*merged, undo, redo) == outcome(*merged)
    assert outcome(*merged, undo, redo, undo) == outcome()
    assert in_force([*merged, undo]) == []


def test_what_others_said_of_a_mask_outlives_the_undoing_of_its_act():
    """A mask whose adding was undone is known: a later word on it brings it back."""
    added = correction(Operation.ADD, "new", DRAWN, act="a")
    others = correction(Operation.ACCEPT, "new", by="Ben")
    undo = correction(Operation.UNDO, None, act="a")

    assert outcome(added, others, undo)[2:] == [("new", COUNTS_DRAWN, True)]
    assert outcome(added, undo, correction(Operation.DELETE, "new", by="Ben"))[2:] == []


def test_an_act_that_is_not_there_cannot_be_undone():
    """Neither one of another image nor one that comes later."""
    with pytest.raises(InputError, match="of an act that is not there: 'x' of image 3"):
        outcome(correction(Operation.UNDO, None, act="x"), correction(Operation.DELETE, ID_1, act="x"))


def test_labels_are_given_taken_away_and_kept():
    """A label says nothing about whether a mask is right; a replaced mask keeps its own."""
    labelled = correction(Operation.LABEL, ID_1, label="cup")
    replaced = correction(Operation.REPLACE, ID_1, DRAWN)

    def first(*said):
        return corrected_annotations(RECORD, said)[0].label

    assert (first(labelled), first(labelled, replaced)) == ("cup", "cup")
    assert first(correction(Operation.REPLACE, ID_1, DRAWN, label="pot")) == "pot"
    assert first(labelled, correction(Operation.LABEL, ID_1)) is None
    assert outcome(labelled) == outcome()


def test_an_image_is_exhaustive_until_that_is_undone():
    """Masks that were accepted one by one do not make it so."""
    done = correction(Operation.ACCEPT, None, act="d")

    assert is_exhaustive([done])
    assert not is_exhaustive([done, correction(Operation.UNDO, None, act="d")])
    assert not is_exhaustive([correction(Operation.ACCEPT, ID_1), correction(Operation.ACCEPT, ID_2)])
