"""What the report counts: masks by the last word on them, time and prompts of all that was done."""

from sam_engine.dataset.correction_report import work_report
from sam_engine.dataset.corrections import Operation, Prompt, PromptKind, Stage
from tests.dataset.test_corrections import DRAWN, ID_1, ID_2, correction

CLICK = Prompt(kind=PromptKind.POINT, coords=(1.0, 2.0))


def test_a_mask_counts_once_for_who_had_the_last_word():
    """Drawn, mended, accepted, deleted; what was undone counts for nothing but its time and prompts."""
    lines = [
        correction(Operation.ADD, "a", DRAWN, act="1", time_s=30.0, prompts=(CLICK, CLICK), stage=Stage.SEMI),
        correction(Operation.ADD, "b", DRAWN, act="2", time_s=10.0, prompts=(CLICK,), stage=Stage.SEMI),
        correction(Operation.UNDO, None, act="2", stage=Stage.SEMI),
        correction(Operation.REPLACE, ID_1, DRAWN, act="3", stage=Stage.SEMI),
        correction(Operation.ACCEPT, ID_1, act="4", time_s=5.0, stage=Stage.SEMI),
        correction(Operation.DELETE, ID_2, act="5", by="Ben"),
        correction(Operation.ACCEPT, None, act="6", by="Ben", time_s=0.0),
    ]
    ada, ben = work_report({3: lines})

    assert (ada["by"], ada["stage"], ada["drawn"], ada["replaced"], ada["accepted"]) == (
        "Ada",
        "semi",
        1,
        1,
        0,
    )
    assert (ada["seconds"], ada["prompts"], ada["undone"]) == (45.0, 3, 1)
    assert (ada["masks_per_hour"], ada["seconds_per_mask"], ada["prompts_per_mask"]) == (160.0, 22.5, 1.5)
    assert (ben["stage"], ben["deleted"], ben["exhaustive"], ben["masks_per_hour"]) == ("unknown", 1, 1, None)


def test_a_mask_that_was_drawn_and_deleted_is_neither():
    """It was never one of the dataset's."""
    drawn = correction(Operation.ADD, "a", DRAWN)
    [row] = work_report({3: [drawn, correction(Operation.DELETE, "a")]})

    assert (row["drawn"], row["deleted"]) == (0, 0)
