"""The loop's two arms and what they are compared by."""

from dataclasses import replace
from pathlib import Path

import pytest

from sam_engine.data_engine import (
    METRICS,
    Comparison,
    LoopConfig,
    claim_output,
    compare,
    table_rows,
    training_config,
    verdict,
)
from sam_engine.errors import ConfigError
from sam_engine.training.config import TrainConfig

CONFIG = LoopConfig(
    output="out", labelled=["a.tar", "b.tar"], labelled_weights=[3.0, 1.0], pseudo_share=0.4, seeds=[5, 6]
)
CLEAR = Comparison(heldout="eval", metric="click", before=0.3, control=(0.30, 0.32), loop=(0.35, 0.36))
MIXED = replace(CLEAR, loop=(0.35, 0.28))


def train_settings(run: str) -> TrainConfig:
    return training_config(CONFIG, run, Path("start.safetensors"))


def test_control_sees_the_labelled_images_alone():
    """In the proportions that were asked for, from the weights that annotate."""
    settings = train_settings("control-seed6")

    assert settings.data.sources == ["a.tar", "b.tar"]
    assert settings.data.weights == pytest.approx([0.75, 0.25])
    assert (settings.seed, settings.output, settings.init_checkpoint) == (
        6,
        "out/control-seed6",
        "start.safetensors",
    )


def test_loop_sees_annotated_images_in_their_share():
    """What the model annotated has its share; the rest keeps its proportions."""
    settings = train_settings("loop-seed5")

    assert settings.data.sources == ["a.tar", "b.tar", "out/annotated"]
    assert settings.data.weights == pytest.approx([0.45, 0.15, 0.4])


def test_arms_of_a_seed_differ_in_nothing_but_their_data():
    """The control costs what the loop costs: same steps, schedule, start and seed."""
    control, loop = train_settings("control-seed5"), train_settings("loop-seed5")

    assert replace(loop, output=control.output, data=control.data) == control
    same_data = replace(
        loop.data, sources=control.data.sources, weights=control.data.weights, packed=control.data.packed
    )
    assert same_data == control.data
    assert control.data.packed != loop.data.packed


def test_labelled_sources_are_drawn_equally_unless_weighted():
    """Without weights each has the same share."""
    config = replace(CONFIG, labelled_weights=[])

    settings = training_config(config, "control-seed5", Path("start"))

    assert settings.data.weights == [0.5, 0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": TrainConfig(seed=3)}, "train.seed is the loop's to set"),
        ({"train": TrainConfig(output="x")}, "train.output is the loop's to set"),
        ({"seeds": [1, 1]}, "seeds must be different numbers"),
        ({"seeds": []}, "seeds must be different numbers"),
        ({"pseudo_share": 1.0}, "pseudo_share must be above 0 and below 1"),
        ({"labelled_weights": [1.0]}, "labelled_weights must be above 0, one for each of labelled"),
    ],
)
def test_settings_that_cannot_be(changes: dict, message: str):
    """Each says which, and what would do."""
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **changes)


def test_an_output_belongs_to_its_settings(tmp_path: Path):
    """The same settings go on, also with more seeds; others are refused, by name, and change nothing."""
    config = replace(CONFIG, output=str(tmp_path / "out"))
    claim_output(config)
    before = (tmp_path / "out" / "loop.json").read_text()

    claim_output(replace(config, seeds=[5, 6, 7]))
    with pytest.raises(ConfigError, match=r"other settings \(pseudo_share, train\.total_steps\)"):
        claim_output(replace(config, pseudo_share=0.5, train=TrainConfig(total_steps=7)))

    assert (tmp_path / "out" / "loop.json").read_text() == before


@pytest.mark.parametrize("torn", ["", '{"output": "out", "mod', "[]", "\udcff"])
def test_a_torn_settings_file_is_one_line(tmp_path: Path, torn: str):
    """What a full disk or another program left of loop.json is named, with what would do."""
    path = tmp_path / "out" / "loop.json"
    path.parent.mkdir()
    path.write_bytes(torn.encode(errors="surrogateescape"))

    with pytest.raises(
        ConfigError, match=r"out/loop\.json: not the settings of a loop \(.*\); choose another"
    ):
        claim_output(replace(CONFIG, output=str(tmp_path / "out")))


def test_scores_are_compared_by_seed():
    """Every held-out set and score, each arm in the order of the seeds."""

    def scores(value: float) -> dict:
        return {"eval": {name: value + i for i, name in enumerate(METRICS.values())}}

    comparisons = compare(
        CONFIG,
        {
            "before": scores(0.0),
            "control-seed5": scores(0.1),
            "loop-seed5": scores(0.4),
            "control-seed6": scores(0.2),
            "loop-seed6": scores(0.3),
        },
    )

    assert [c.metric for c in comparisons] == list(METRICS)
    assert comparisons[0] == Comparison(
        heldout="eval", metric="click", before=0.0, control=(0.1, 0.2), loop=(0.4, 0.3)
    )
    assert comparisons[1].gains == pytest.approx((0.3, 0.1))


def test_a_gain_is_clear_when_seeds_agree():
    """The sign is the same for all seeds, and the mean exceeds the spread; one seed shows nothing."""
    assert CLEAR.is_clear
    assert not MIXED.is_clear
    assert not replace(CLEAR, loop=(0.301, 0.36)).is_clear
    assert not replace(CLEAR, control=(0.3,), loop=(0.4,)).is_clear
    assert not replace(CLEAR, control=(0.1,) * 4, loop=(0.4, 0.4, 0.4, 0.09)).is_clear


def test_report_by_hand():
    """Means and standard deviations over seeds; the verdict counts what is clear."""
    [row] = table_rows([CLEAR])

    assert row == ["eval, click", "0.300", "0.310 ± 0.014", "0.355 ± 0.007", "+0.045 ± 0.007", "yes"]
    assert "clearly better on 2 of 4 scores, clearly worse on 1" in verdict(
        [CLEAR, CLEAR, MIXED, replace(CLEAR, loop=(0.2, 0.22))]
    )
