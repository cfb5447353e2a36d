"""The stages' bookkeeping: whose images, what each training sees, the table."""

from pathlib import Path

import pytest

from sam_engine.data_engine import LoopConfig
from sam_engine.stages.rounds import RoundResult, round_training, rounds_of, shares, stage_table

CONFIG = LoopConfig(output="out", stages=["manual", "semi", "auto"], pseudo_share=0.6, seeds=[7])
SCORES = {"eval": {"click_ranked": 0.4, "click_oracle": 0.5, "random_ranked": 0.3, "box": 0.6}}


def test_every_image_is_in_one_round():
    """Also where they do not divide."""
    assert [list(each) for each in shares(7, 3)] == [[0, 1], [2, 3], [4, 5, 6]]


def test_a_round_learns_from_all_before_it_and_goes_on_from_the_last():
    """Without labelled images they are all there is; with some, they have their share."""
    rounds = rounds_of(CONFIG)
    second = round_training(CONFIG, rounds[:2], rounds[0].weights)
    labelled = LoopConfig(**{**vars(CONFIG), "labelled": ["a.tar"]})

    assert second.data.sources == ["out/1-manual/dataset", "out/2-semi/dataset"]
    assert second.data.weights == pytest.approx([0.5, 0.5])
    assert (second.init_checkpoint, second.seed) == ("out/1-manual/training/model.safetensors", 7)
    assert round_training(labelled, rounds[:2], Path("w")).data.weights == pytest.approx([0.4, 0.3, 0.3])


def test_the_table_has_the_scores_before_and_after_each_round():
    """Seconds a mask where somebody worked, and nothing where nobody did."""
    made = [
        RoundResult(number=1, stage="manual", images=2, masks=10, prompts=25, minutes=4.0, scores=SCORES),
        RoundResult(number=2, stage="auto", images=2, masks=9, prompts=0, minutes=0.0, scores=SCORES),
    ]
    head, rows = stage_table(made, SCORES)

    assert head[:6] == ["round", "images", "masks", "prompts", "minutes", "s a mask"]
    assert rows[0] == ["before", "", "", "", "", "", "0.400", "0.500", "0.300", "0.600"]
    assert rows[1][:6] == ["1 manual", "2", "10", "25", "4.0", "24.0"]
    assert rows[2][:6] == ["2 auto", "2", "9", "0", "0.0", ""]
